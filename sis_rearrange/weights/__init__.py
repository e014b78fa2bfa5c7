"""Safe reading and writing of network weights: ``(config, state_dict)`` in, one safetensors file out.

This package knows no network. What a file is gets decided by its content, not by its name, and no code of a file ever
runs: safetensors files are parsed by the safetensors library, pickles and torch files by a machine of our own
(``machine``) that knows an exact list of names (``allowed``) and turns what they stand for into inert records.
"""

from __future__ import annotations

from sis_rearrange.weights.kinds import describe_content, sha256
from sis_rearrange.weights.networks import decode_networks, decode_weights, read_networks, read_weights
from sis_rearrange.weights.official import NetworkRecord
from sis_rearrange.weights.own_format import encode_weights, write_weights
from sis_rearrange.weights.values import State

__all__ = [
    "NetworkRecord",
    "State",
    "decode_networks",
    "decode_weights",
    "describe_content",
    "encode_weights",
    "read_networks",
    "read_weights",
    "sha256",
    "write_weights",
]
