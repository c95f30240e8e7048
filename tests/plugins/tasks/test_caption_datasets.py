"""COCO's and Flickr30k's captions in the very layouts in which they are published; bad entries are all named by place."""

import gzip
import json

import pytest
from PIL import Image
from pydantic import ValidationError

import vlmzoo_registry.tasks
import vlmzoo_tasks.config
from vlmzoo_registry import DataError
from vlmzoo_registry.tasks import IMAGE, Turn
from vlmzoo_tasks.coco_captions import CocoCaptionsDataset
from vlmzoo_tasks.config import CocoCaptionsConfig, Flickr30kConfig
from vlmzoo_tasks.described import drawn
from vlmzoo_tasks.flickr30k import Flickr30kDataset


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for name, colour in (("000000391895.jpg", "red"), ("000000522418.jpg", "blue")):
        Image.new("RGB", (8, 6), colour).save(folder / name, quality=95)
    for name, colour in (("1000092795.jpg", "red"), ("2199200615.jpg", "blue")):
        Image.new("RGB", (8, 6), colour).save(folder / name, quality=95)
    return folder


# ---- COCO ------------------------------------------------------------------------------------------------------------------

COCO = {
    "info": {"description": "COCO 2017 Dataset", "url": "http://cocodataset.org", "version": "1.0", "year": 2017},
    "licenses": [{"url": "http://creativecommons.org/licenses/by-nc/2.0/", "id": 2, "name": "Attribution-NonCommercial"}],
    "images": [
        {"license": 2, "file_name": "000000391895.jpg", "coco_url": "", "height": 6, "width": 8, "id": 391895},
        {"license": 2, "file_name": "000000522418.jpg", "coco_url": "", "height": 6, "width": 8, "id": 522418},
    ],
    "annotations": [
        {"image_id": 522418, "id": 37, "caption": "A woman cutting a cake. "},
        {"image_id": 391895, "id": 770337, "caption": "A man on a motorcycle."},
        {"image_id": 522418, "id": 49, "caption": "A cake\nis cut."},
    ],
}


def coco(tmp_path, images, content=COCO, **options):
    path = tmp_path / "captions_train2017.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return CocoCaptionsDataset(CocoCaptionsConfig(path=path, images=images, **options))


def test_coco_has_one_sample_for_each_caption(tmp_path, images):
    data = coco(tmp_path, images)
    assert [data[index].id for index in range(len(data))] == ["37", "770337", "49"]
    assert [data[index].turns for index in range(2)] == [
        (Turn("user", IMAGE), Turn("assistant", "A woman cutting a cake.")),
        (Turn("user", IMAGE), Turn("assistant", "A man on a motorcycle.")),
    ]
    assert data[1].source == f"{tmp_path}/captions_train2017.json:annotations[1]"
    red, blue = (data[index].images[0]().getpixel((3, 3)) for index in (1, 0))
    assert red[0] > 200 > 100 > red[2]
    assert blue[2] > 200 > 100 > blue[0]


BAD_COCO = [
    ({"image_id": 1, "id": 5, "caption": "x"}, "image_id: there is no image 1 among the 2 of `images`"),
    ({"image_id": "391895", "id": 5, "caption": "x"}, "image_id: must be a whole number (is '391895')"),
    ({"image_id": 391895, "caption": "x"}, "id: must be a whole number (is None)"),
    ({"image_id": 391895, "id": 5}, "caption: missing (the row has id, image_id)"),
    ({"image_id": 391895, "id": 5, "caption": " \n"}, "caption: empty"),
    ({"image_id": 391895, "id": 5, "caption": "an <image>"}, "caption: contains `<image>`"),
    (["x"], "row: must be an object of fields (is list)"),
]


def test_bad_annotations_are_all_named(tmp_path, images):
    with pytest.raises(DataError) as caught:
        coco(tmp_path, images, {**COCO, "annotations": [row for row, _ in BAD_COCO]})
    assert caught.value.message == f"`{tmp_path}/captions_train2017.json` has {len(BAD_COCO)} faults in its rows:"
    for number, ((_, reason), said) in enumerate(zip(BAD_COCO, caught.value.reasons, strict=True)):
        assert said.startswith(f"{tmp_path}/captions_train2017.json:annotations[{number}]: {reason}")


def test_bad_images_of_coco_are_named(tmp_path, images):
    rows = [*COCO["images"], {"file_name": "again.jpg", "id": 391895}, {"id": 7}, {"file_name": "x", "id": "7"}, 3]
    with pytest.raises(DataError) as caught:
        coco(tmp_path, images, {**COCO, "images": rows})
    path = f"{tmp_path}/captions_train2017.json"
    assert [reason.split(":", 3)[:3] for reason in caught.value.reasons] == [
        [path, "images[2]", " id"],
        [path, "images[3]", " file_name"],
        [path, "images[4]", " id"],
        [path, "images[5]", " row"],
    ]
    assert "391895 is the id of an earlier image too (`000000391895.jpg`)" in caught.value.reasons[0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"images": ', "is not JSON (Expecting value"),
        ("[]", "is not in COCO's format of captions:\n  - `images` must be a list (is missing)"),
        ('{"images": {}, "annotations": []}', "`images` must be a list (is of another type)"),
        ('{"images": [], "annotations": []}', "has no annotations: name a file with captions"),
    ],
)
def test_other_files_are_not_taken_for_coco(tmp_path, images, content, message):
    with pytest.raises(DataError) as caught:
        coco(tmp_path, images, content)
    assert message in str(caught.value)


def test_missing_image_of_coco_is_named_when_it_is_opened(tmp_path, images):
    (images / "000000391895.jpg").unlink()
    data = coco(tmp_path, images)
    with pytest.raises(
        DataError, match=r"captions_train2017.json:annotations\[1\]: image_id: .*000000391895.jpg` is not a file"
    ):
        data[1].images[0]()


# ---- Flickr30k -------------------------------------------------------------------------------------------------------------

TOKEN = (
    "1000092795.jpg#0\tTwo young guys with shaggy hair look at their hands while hanging out in the yard .\n"
    "1000092795.jpg#1\tTwo young , White males are outside near many bushes .\n"
    "2199200615.jpg#4\tA dog runs across the grass .\n"
)
TABLE = (
    "image_name| comment_number| comment\n"
    "1000092795.jpg| 0| Two young guys with shaggy hair look at their hands while hanging out in the yard .\n"
    "1000092795.jpg| 1| Two young , White males are outside near many bushes .\n"
    "2199200615.jpg| 4   A dog runs across the grass .\n"  # as it is in the published table
)


def flickr(tmp_path, images, text, name="results_20130124.token", **options):
    (tmp_path / name).write_text(text)
    return Flickr30kDataset(Flickr30kConfig(path=tmp_path / name, images=images, **options))


def test_both_published_forms_of_flickr_give_the_same_samples(tmp_path, images):
    token, table = flickr(tmp_path, images, TOKEN), flickr(tmp_path, images, TABLE, "results.csv")
    windows = flickr(tmp_path, images, TABLE.replace("\n", "\r\n"), "windows.csv")
    assert len(token) == len(table) == len(windows) == 3
    for index in range(3):
        assert token[index].id == table[index].id == windows[index].id
        assert token[index].turns == table[index].turns == windows[index].turns
    assert token[2].turns == (Turn("user", IMAGE), Turn("assistant", "A dog runs across the grass ."))
    assert [data[2].source.rpartition(":")[2] for data in (token, table)] == ["3", "4"]
    assert token[2].images[0]().getpixel((3, 3))[2] > 200


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        (TOKEN + "1000092795.jpg 3\tx\n", 4, "row: must be `image.jpg#0<TAB>caption` (is '1000092795.jpg 3\\tx'): correct it"),
        (TOKEN + "a.jpg| 0| x\n", 4, "row: must be `image.jpg#0<TAB>caption` (is 'a.jpg| 0| x'); it is one of the table"),
        (TABLE + "a.jpg#0\tx\n", 5, "row: must be `image.jpg| 0| caption` (is 'a.jpg#0\\tx'); it is one of the token file"),
        (TABLE + "a.jpg| zero| x\n", 5, "row: must be `image.jpg| 0| caption`"),
        (TABLE + "a.jpg| 0| \n", 5, "caption: empty"),
        (TOKEN + "a.jpg#0\tan <image>\n", 4, "caption: contains `<image>`"),
        (TOKEN + "1000092795.jpg#1\tx\n", 4, "number: `1000092795.jpg#1` is on line 2 too"),
        ("image,caption\n" + TOKEN, 1, "row: must be `image.jpg#0<TAB>caption` (is 'image,caption')"),
    ],
)
def test_bad_lines_of_flickr_are_named(tmp_path, images, text, line, reason):
    with pytest.raises(DataError) as caught:
        flickr(tmp_path, images, text)
    assert len(caught.value.reasons) == 1
    assert caught.value.reasons[0].startswith(f"{tmp_path}/results_20130124.token:{line}: {reason}")


def test_flickr_without_a_caption_is_refused(tmp_path, images):
    with pytest.raises(DataError, match="has no captions: name a file that has some"):
        flickr(tmp_path, images, "image_name| comment_number| comment\n\n")
    with pytest.raises(DataError, match="leads out of the image folder"):
        flickr(tmp_path, images, "../results_20130124.token#0\tx\n")[0].images[0]()


# ---- prompts ---------------------------------------------------------------------------------------------------------------

PROMPTS = ("Describe the image.", "What is in this picture?", "Write a caption.")


def test_a_prompt_is_drawn_by_the_id_of_the_sample(tmp_path, images):
    # Known answers: the same on every machine and in every version.
    assert [drawn(PROMPTS, str(number)) for number in (37, 49, 770337)] == [PROMPTS[1], PROMPTS[0], PROMPTS[2]]
    data = coco(tmp_path, images, prompts=PROMPTS)
    assert [data[index].turns[0].text for index in range(3)] == [f"{IMAGE}{PROMPTS[place]}" for place in (1, 2, 0)]
    counts = [sum(drawn(PROMPTS, str(number)) == prompt for number in range(3000)) for prompt in PROMPTS]
    assert min(counts) > 900
    assert flickr(tmp_path, images, TOKEN, prompts=PROMPTS[:1])[0].turns[0].text == f"{IMAGE}{PROMPTS[0]}"


def test_prompts_without_words_or_with_an_image_are_refused(images):
    for prompts in (("",), (" ",), (f"{IMAGE} what?",)):
        with pytest.raises(ValidationError, match="must be words without `<image>`"):
            CocoCaptionsConfig(path="x", images=images, prompts=prompts)
    assert vlmzoo_tasks.config.IMAGE == vlmzoo_registry.tasks.IMAGE


def test_captions_may_be_compressed(tmp_path, images):
    path = tmp_path / "captions.json.gz"
    path.write_bytes(gzip.compress(json.dumps(COCO).encode()))
    assert len(CocoCaptionsDataset(CocoCaptionsConfig(path=path, images=images))) == 3
