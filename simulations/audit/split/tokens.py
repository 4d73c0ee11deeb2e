"""Texts read off activations: every token's vector is looked up, or a probe names the token that it came from."""

import torch
from torch.nn.functional import normalize

from simulations.audit.split.ridge import Ridge
from simulations.audit.split.seen import Observer, Seen

CHUNK = 2048
"""Tokens of the vocabulary that are compared at once."""


def look_up(observer: Observer, seen: Seen) -> torch.Tensor:
    """Depth 0: for each token the id whose embedding at that place points most alike, (N,).

    The public embeddings are asked for every id of the vocabulary at every place: nothing is learned. By angle, so that
    a clipped row is looked up as well as another.
    """
    words = _vocabulary(observer)
    places = int(seen.place.max()) + 1
    nearest = torch.full((len(seen.hidden),), -torch.inf)
    directions = normalize(seen.hidden, dim=1)
    guess = torch.zeros(len(seen.hidden), dtype=torch.long)
    head = observer.parts(0).head
    for start in range(0, words, CHUNK):
        ids = torch.arange(start, min(start + CHUNK, words))
        with torch.no_grad():
            table = normalize(head({"input_ids": ids[:, None].expand(-1, places).contiguous()}).hidden, dim=2)
        for place in range(places):
            here = (seen.place == place).nonzero().flatten()
            likeness, index = (directions[here] @ table[:, place].T).max(dim=1)
            better = likeness > nearest[here]
            nearest[here[better]], guess[here[better]] = likeness[better], ids[index[better]]
    return guess


class Probe:
    """A linear map from activations to the public word embeddings; the word nearest by angle is the guess."""

    def __init__(self, observer: Observer, seen: Seen, ids: torch.Tensor) -> None:
        """Learn from public tokens with known `ids` (N,)."""
        table = _words(observer)
        centred = table - table.mean(dim=0)
        self._table = normalize(centred, dim=1)
        self._map = Ridge.fit(seen.hidden, self._table[ids])

    def guess(self, seen: Seen) -> torch.Tensor:
        """The ids, (N,)."""
        directions = self._map(seen.hidden)
        return torch.cat([(part @ self._table.T).argmax(dim=1) for part in torch.split(directions, CHUNK)])


def _words(observer: Observer) -> torch.Tensor:
    model = observer.loaded.model
    table: torch.Tensor = model.get_input_embeddings().weight.detach()  # type: ignore[operator]
    return table


def _vocabulary(observer: Observer) -> int:
    return len(_words(observer))
