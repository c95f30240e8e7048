from torch import nn

from vlmzoo_registry import ComponentSpec, PerToken, hookimpl


def narrow(config, context):
    layers = nn.Sequential(nn.Linear(context.input.width, 64), nn.GELU(), nn.Linear(64, context.target_width))
    return PerToken(layers, context)


@hookimpl
def vlmzoo_components():
    return [ComponentSpec(kind="connector", name="narrow", factory="my_connector:narrow", summary="Through 64.", tiny={})]
