"""A small LLaMA learns Python from the standard library's own sources."""

from train.config import Compression, Config, Model

config = Config(
    steps=300,
    model=Model(width=128),
    compression=Compression(rank=16),
)
