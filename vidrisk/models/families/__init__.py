"""The architectures, one module each: every module that defines a ``FAMILY`` adds one."""

from __future__ import annotations

from vidrisk.files.members import members_of_package
from vidrisk.models.families.composed_folder import COMPOSED_FOLDER, is_composed_folder
from vidrisk.models.families.family import COMPOSE, Family, Source
from vidrisk.models.families.hub import hub_config, hub_family, vision_config

__all__ = ["FAMILIES", "Family", "Source", "family_of"]


FAMILIES: dict[str, Family] = {  # by name and alias
    name: family
    for family in members_of_package(__name__, __path__, "FAMILY")
    for name in (family.name, *family.aliases)
}


def family_of(source: Source) -> Family:
    """Return the family of a backbone.

    An architecture without a module is treated as a frame encoder that is pooled by the mean.

    Raises:
        SettingsError: an unknown backbone.
    """
    named = FAMILIES.get(source.backbone)
    if named is not None and named.is_embedded:
        return named
    if source.backbone.startswith(COMPOSE):
        return FAMILIES[COMPOSE]
    if is_composed_folder(source):
        return FAMILIES[COMPOSED_FOLDER]
    whole = hub_config(source)
    if whole.model_type in FAMILIES:
        return FAMILIES[whole.model_type]
    tower = vision_config(whole, source)
    return FAMILIES.get(tower.model_type) or hub_family(tower.model_type, "AutoModel", "mean", is_known=False)
