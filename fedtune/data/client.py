"""One client's rows, divided into what it learns from and what it only evaluates on."""

from fedtune.data.base import ClientData
from fedtune.data.rows import EncodedRows
from fedtune.data.split import HOLDOUT_PURPOSE, split
from fedtune.errors import DataError
from fedtune.recipe.data import DataSection


def client_data(rows: EncodedRows, section: DataSection, *, seed: int, client: str) -> ClientData:
    """`section.holdout_fraction` of the client's rows is held out; a client with one row learns from it.

    The same rows, seed and client name give the same division in a simulation and on a real client. Raises
    DataError where the client holds no rows.
    """
    if len(rows) == 0:
        raise DataError(f"client {client} holds no rows: give it data or leave it out")
    train, holdout = split(rows, section.holdout_fraction, seed=seed, purpose=HOLDOUT_PURPOSE, client=client)
    notes = {**rows.notes, "rows": len(rows), "train_rows": len(train), "labels": rows.label_counts()}
    return ClientData(train, holdout if len(holdout) else None, notes)
