"""The ways in which a data owner says no, and the ways in which the book of what was spent cannot be trusted.

PrivacyError
├── Declined        the data owner does not allow the task; the coordinator is told why
│   ├── AgainstPolicy   a rule of the policy file
│   ├── BudgetSpent     the ε that the policy allows for the data set, for ever
│   ├── UnsoundRecipe   a rule between the recipe's own sections, which every recipe keeps
│   └── Withheld        nothing covers what is asked for: scores or gradients in the clear under privacy
├── BookBroken      the book of a data set was changed, or an older copy was put back
└── BookBusy        another process holds the book, or the disk does not take it
"""

from fedtune.errors import PrivacyError


class Declined(PrivacyError):
    """A clear no of the data owner, not a fault.

    Args:
        told: one sentence for the coordinator: which limit; nothing of the data, and of other runs only that there is
            no room left.
        own: the whole story for the client's own log; `told` where there is no more to it.
    """

    def __init__(self, told: str, own: str = "") -> None:
        super().__init__(own or told)
        self.told = told


class AgainstPolicy(Declined):
    """A rule of the policy file does not allow the task."""

    @property
    def reason(self) -> str:
        """`policy`."""
        return "policy"


class BudgetSpent(Declined):
    """The task would take the data set past the ε of its policy."""


class UnsoundRecipe(Declined):
    """The recipe mixes what no recipe may mix."""


class Withheld(Declined):
    """Under privacy nothing is released that no noise covers."""


class BookBroken(PrivacyError):
    """The book is not what was written: it was changed, shortened, or an older copy was put back."""


class BookBusy(PrivacyError):
    """The book cannot be written now."""
