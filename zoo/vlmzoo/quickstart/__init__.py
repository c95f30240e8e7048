"""The first model anyone trains here: real pretrained parts and real pictures, with nothing to download."""
