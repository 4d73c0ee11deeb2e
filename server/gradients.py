"""The weight gradients that a gradient initialisation starts from: of a public set, or of the clients' own rows."""

from fedtune.aggregation import Global
from fedtune.aggregation.exact_sum import ExactSum
from fedtune.aggregation.validate import check_delta
from fedtune.data.table import public_rows
from fedtune.errors import FedtuneError, MalformedMessage, RunError
from fedtune.recipe import Recipe
from fedtune.seeds import derive_seed
from fedtune.state import Shapes, State
from fedtune.training.gradient import mean_gradients
from fedtune.training.resident import Resident
from fedtune.wire import Update, decode
from server.exchange import Exchange, Reply
from server.listener import Listener
from server.tasking import Tasking


def public_gradients(recipe: Recipe, home: Resident) -> State:
    """Mean gradients on `adapter.init_source`, computed here; costs the clients nothing."""
    rows = public_rows(recipe, home.loaded)
    seed = derive_seed(recipe.run.seed, "gradient")
    return mean_gradients(home, rows, limit=recipe.adapter.init_rows, seed=seed)


def private_gradients(
    recipe: Recipe, home: Resident, exchange: Exchange, tasking: Tasking, names: list[str], listener: Listener
) -> State:
    """Mean gradients over the clients' own rows, weighted by rows: the published LoRA-SB start (arXiv 2411.19557).

    Each client uploads one gradient per adapted module, which says more of its rows than an adapter does: the
    recipe rules refuse this under privacy. With `adapter.init = "dp-gradient"` the clients' gradients are clipped and
    noised by row, and all count alike. Raises RunError where no client answers.
    """
    task = tasking.task("gradient", 0, Global(home.attached.read()))
    shapes = home.attached.target_shapes()
    sums = {name: ExactSum(shape) for name, shape in shapes.items()}
    total = 0
    listener.asked(0, len(names), "gradient")
    deadline_s = recipe.federation.deadline_s
    payloads = tasking.payloads(task, names)
    for reply in exchange.ask(payloads, message_type="train", round_=0, deadline_s=deadline_s):
        try:
            total += _add(reply, task.run, shapes, sums, recipe)
        except FedtuneError as error:
            listener.noted(f"{reply.client} gave no gradient for the initialisation: {error}")
    if not total:
        init = recipe.adapter.init
        raise RunError(f"no client gave a gradient for adapter.init = '{init}'; try 'weights' or 'random'")
    return {name: (value.value() / total).float() for name, value in sums.items()}


def _add(reply: Reply, run: str, shapes: Shapes, sums: dict[str, ExactSum], recipe: Recipe) -> int:
    if reply.failure:
        raise RunError(reply.detail)
    message = decode(reply.data)
    if not isinstance(message, Update) or message.run != run or message.client != reply.client:
        raise MalformedMessage(getattr(message, "message", "the reply is no gradient for this run"))
    most = 1 if recipe.adapter.init == "dp-gradient" else recipe.adapter.init_rows
    if not 1 <= message.examples <= most:
        raise MalformedMessage(f"a gradient over {message.examples} rows was not asked for")
    check_delta(message.tensors, shapes, recipe.aggregation)
    for name, total in sums.items():
        total.check(message.tensors[name], message.examples)
    for name, total in sums.items():
        total.add(message.tensors[name], message.examples)
    return message.examples
