"""Opening a run's books: a new ledger where the run begins, the same one where it goes on."""

from importlib.metadata import PackageNotFoundError, version

from fedtune.audit.ledger import LedgerWriter, OpenBody
from fedtune.audit.ledger.pseudonym import SECRET_NAME, RunSecret
from fedtune.errors import LedgerBroken, PrivacyError
from fedtune.privacy.plan import Plan, plan_of
from fedtune.runs.folder import RunFolder
from server.books import Books, KeptBooks

PACKAGES = ("fedtune", "torch", "opacus", "flwr", "dp-accounting", "cryptography")
"""What a result may depend on."""
_MAY_CHANGE = {"rounds", "evaluations"}
"""Of a plan, when a run is taken up again with another length."""


def open_books(folder: RunFolder, *, model_fingerprint: str, link: str, begun: bool) -> Books:
    """The books of a run folder, which this process has locked; `begun`: is there a checkpoint?

    Raises LedgerBroken where the ledger was changed or is gone, PrivacyError where the recipe now spends otherwise.
    """
    plan = plan_of(folder.recipe)
    if plan is None:
        return Books()
    writer = LedgerWriter.of(folder.path, by_the_day=plan.trust == "coordinator")
    opened = writer.story.opened
    if opened is None:
        if begun:
            raise LedgerBroken(f"{writer.path} is missing, and the run has begun: restore it, or start another run")
        writer.append(_opening(folder, plan, writer.public_key, model_fingerprint, link))
    elif opened.run != folder.info.id:
        raise LedgerBroken(f"{writer.path} is the ledger of another run; restore the one of this folder")
    else:
        _refuse_another_plan(opened.plan, plan)
        if not (folder.path / SECRET_NAME).exists():
            raise LedgerBroken(f"{folder.path / SECRET_NAME} is missing: nobody can be charged under the same name")
    return KeptBooks(writer, plan, RunSecret.of(folder.path), folder.recipe.privacy.epsilon)


def _opening(folder: RunFolder, plan: Plan, public_key: str, model_fingerprint: str, link: str) -> OpenBody:
    return OpenBody(
        run=folder.info.id,
        created=folder.info.started_at,
        recipe=folder.recipe.model_dump(mode="json"),
        recipe_fingerprint=folder.recipe.fingerprint(),
        plan=plan.as_json(),
        versions={name: _version(name) for name in PACKAGES},
        base_model_fingerprint=model_fingerprint,
        public_key=public_key,
        link=link,
    )


def _refuse_another_plan(written: dict[str, object], plan: Plan) -> None:
    now = plan.as_json()
    changed = sorted(name for name in now if name not in _MAY_CHANGE and now[name] != written.get(name))
    if changed:
        raise PrivacyError(
            f"the run was begun with another privacy plan ({', '.join(changed)}): undo what changed in the recipe, or "
            "start another run"
        )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
