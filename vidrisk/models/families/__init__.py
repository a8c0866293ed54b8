"""The architectures, one file each: a module with a ``FAMILY`` is one. Whoever adds a file adds an architecture."""

from __future__ import annotations

import importlib
import pkgutil

from vidrisk.models.families.family import Family, Source
from vidrisk.models.families.hub import hub_config, hub_family, vision_config

__all__ = ["FAMILIES", "Family", "Source", "family_of"]


def _every_family() -> dict[str, Family]:
    modules = [importlib.import_module(f"{__name__}.{info.name}") for info in pkgutil.iter_modules(__path__)]
    families: list[Family] = [module.FAMILY for module in modules if hasattr(module, "FAMILY")]
    return {name: family for family in families for name in (family.name, *family.aliases)}


FAMILIES: dict[str, Family] = _every_family()  # by name and alias


def family_of(source: Source) -> Family:
    """Find the family of a backbone; one that is not among the files is taken for an encoder of frames, and the mean is its pool.

    Raises:
        SettingsError: an unknown backbone.
    """
    named = FAMILIES.get(source.backbone)
    if named is not None and named.is_embedded:
        return named
    whole = hub_config(source)
    tower = vision_config(whole, source)
    known = FAMILIES.get(whole.model_type) or FAMILIES.get(tower.model_type)
    return known or hub_family(tower.model_type, "AutoModel", "mean", is_known=False)
