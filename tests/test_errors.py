"""Every error class has a sentence of its own, a stable name, and stands in the tree at the top of the module."""

import inspect

import pytest

from fedtune import errors

CLASSES = [c for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, errors.FedtuneError)]


@pytest.mark.parametrize("error", CLASSES)
def test_each_class_is_drawn_in_the_tree_and_documented(error):
    assert error.__name__ in (errors.__doc__ or "")
    assert error.__doc__


def test_reasons_are_kebab_case_class_names():
    assert errors.NonFiniteUpdate("x").reason == "non-finite-update"
    assert errors.MalformedMessage("x").reason == "malformed-message"
