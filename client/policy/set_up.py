"""From options to a guard: which policy, which book, and under which other name the data set may have spent before."""

from pathlib import Path

from client.policy.book import Book
from client.policy.guard import Guard
from client.policy.load import load_policy
from client.policy.where import default_folder, name_of


def book_folder(named: str) -> Path:
    """The folder of budget books that an option names, or the default where it is empty."""
    return Path(named) if named else default_folder()


def set_up_guard(data: Path, policy: Path | None, books: Path, *, coordinator: str = "") -> Guard:
    """The guard of the rows at `data`, under the policy in a file or under none.

    Without a policy the data set is known by where it lies. With one, what was spent under that name before counts too.
    Raises PrivacyError where the policy cannot be read.
    """
    unnamed = Book(books, name_of(data))
    if policy is None:
        return Guard(unnamed, coordinator=coordinator)
    read = load_policy(policy)
    if read.dataset == unnamed.dataset:
        return Guard(unnamed, read, coordinator=coordinator)
    return Guard(Book(books, read.dataset), read, earlier=(unnamed,), coordinator=coordinator)
