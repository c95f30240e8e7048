"""The type checker that executes the shape annotations: beartype, with ints where floats are asked for."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
