"""A small LLaMA learns Python from the standard library's own sources."""

from train.config import Compression
from train.config import Config
from train.config import Model

config = Config(
    steps=300,
    model=Model(width=128),
    compression=Compression(rank=16),
)
