"""The frame of an attached adapter: what a scheme may know of it."""

from fedtune.adapters.base import Attached
from fedtune.aggregation.base import Frame
from fedtune.recipe import AdapterSection


def frame_of(attached: Attached, section: AdapterSection) -> Frame:
    """The frame of the adapter that `section` asked for, as it is attached."""
    return Frame(
        form=section.form,
        shapes=attached.shapes(),
        axes=attached.axes(),
        slots=attached.slots,
        modules={name: (shape[0], shape[1]) for name, shape in attached.target_shapes().items()},
        scale=attached.scale,
        seed=section.seed,
        products=attached.products,
    )
