"""Noise of a client on its own update, for those who do not trust the coordinator with it."""

from fedtune.privacy.clipping import clip_state
from fedtune.privacy.noise import NoiseSource, SecureNoise, add_noise
from fedtune.privacy.plan import Plan
from fedtune.state import State


def released(delta: State, plan: Plan | None, source: NoiseSource | None = None) -> State:
    """What a client may send of its whole update under `plan`: fp32, by the same names.

    Guarantees: where the plan has the clients add the noise of whole updates (`unit` and `trust` both "client"), any
    two updates are at most twice the clip apart before noise of standard deviation `noise_multiplier` x `clip` on every
    number, from a cryptographic generator; an update that is not finite counts as zero. Elsewhere it is `delta` itself:
    somebody else's noise covers it, or none is promised.
    """
    if plan is None or plan.unit != "client" or plan.trust != "client":
        return delta
    return add_noise(clip_state(delta, plan.clip), plan.noise_multiplier * plan.clip, source or SecureNoise())
