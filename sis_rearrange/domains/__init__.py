"""Embedded domains: small illustrated worlds that can be rendered anywhere, each picture with its true part mask."""

from __future__ import annotations

from sis_rearrange.domains.base import SPLITS, Domain, render_many, split_indices
from sis_rearrange.domains.critters import CRITTERS
from sis_rearrange.domains.landscape import LANDSCAPE
from sis_rearrange.domains.toonhead import TOONHEAD
from sis_rearrange.errors import InputError, nearest

__all__ = ["SPLITS", "Domain", "domain_names", "get_domain", "render_many", "split_indices"]

_DOMAINS = {domain.name: domain for domain in (CRITTERS, LANDSCAPE, TOONHEAD)}


def domain_names() -> tuple[str, ...]:
    """Names of the embedded domains, in alphabetical order."""
    return tuple(sorted(_DOMAINS))


def get_domain(name: str) -> Domain:
    """The embedded domain of that name; InputError (with the nearest known name) if there is none."""
    if name not in _DOMAINS:
        known = ", ".join(domain_names())
        raise InputError(f"unknown domain '{name}'{nearest(name, domain_names())} (known: {known})")
    return _DOMAINS[name]
