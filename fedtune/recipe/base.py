"""What every section of a recipe has in common: frozen, and strict about what it is given."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """One table of a recipe: immutable, no unknown keys, no silent conversions, no infinities."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )
