"""What a checkpoint's `config.json` says: the architecture of every part, resolved, so that no pretrained id is needed."""

from typing import Any

from transformers import PreTrainedConfig

FORMAT = 1


class VLMConfig(PreTrainedConfig):
    """The config of an assembled model.

    `model` is the resolved `model:` section of a recipe (each part written out as an architecture, full component names);
    `image_token_id` the placeholder in the text; `format` the version of the checkpoint layout.
    """

    model_type = "vlmzoo"

    def __init__(
        self, model: dict[str, Any] | None = None, image_token_id: int | None = None, format: int = FORMAT, **kwargs: Any
    ) -> None:
        self.model = model
        self.image_token_id = image_token_id
        self.format = format
        # Set by the model it belongs to: generation reads the text side's depth and windows from here, and a checkpoint
        # has it once already, inside `model`.
        self._text_config: PreTrainedConfig | None = None
        super().__init__(**kwargs)

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> PreTrainedConfig:
        """The language model's own config, which is where generation looks for the cache layout."""
        return self if self._text_config is None else self._text_config

    def attach_text_config(self, text_config: PreTrainedConfig) -> None:
        """Say which config `get_text_config` returns."""
        self._text_config = text_config

    def to_dict(self) -> dict[str, Any]:
        """Everything but the attached text config."""
        fields = super().to_dict()
        fields.pop("_text_config", None)
        return fields
