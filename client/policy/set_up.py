"""From options to a guard: which policy, which book, and under which other name the data set may have spent before."""

from pathlib import Path

from client.policy.book import Book
from client.policy.guard import Guard
from client.policy.load import load_policy
from client.policy.policy import Policy
from client.policy.where import default_folder, name_of


def book_folder(named: Path | None) -> Path:
    """The folder of budget books that an option names, or the default."""
    return named or default_folder()


def set_up_guard(data: Path, policy: Path | None, books: Path, *, coordinator: str = "") -> Guard:
    """The guard of the rows at `data`, under the policy in a file or under none.

    Without a policy the data set is known by where it lies. With one, what was spent under that name before counts too.
    Raises PrivacyError where the policy cannot be read.
    """
    read = load_policy(policy) if policy else None
    book, *earlier = books_of(data, read, books)
    return Guard(book, read, earlier=tuple(earlier), coordinator=coordinator)


def books_of(data: Path | None, policy: Policy | None, books: Path | None) -> list[Book]:
    """The books that a data set's spending stands in: the one that is written first, then what it had before."""
    named = [policy.dataset] if policy else []
    unnamed = [name_of(data)] if data else []
    return [Book(book_folder(books), name) for name in dict.fromkeys([*named, *unnamed])]
