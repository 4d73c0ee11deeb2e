"""How soft prompts start: like the vectors that they stand among, the same on all machines."""

import math

import torch

from fedtune.errors import AdapterError
from fedtune.recipe import AdapterSection
from fedtune.seeds import generator


def text_start(section: AdapterSection, words_VD: torch.Tensor) -> torch.Tensor:
    """(P, D) in fp32 on the CPU: normal, as wide as the word embeddings are, or with "weights" embeddings of words.

    The words are drawn evenly from the vocabulary (arXiv 2104.08691, section 3.2).
    """
    draw, words_VD = generator(section.seed, "adapter", client="prompt"), words_VD.detach().cpu()
    count, width = section.prompt_tokens, words_VD.shape[1]
    if section.init == "weights":
        return words_VD[torch.randint(len(words_VD), (count,), generator=draw)].float()
    # The last digits of a sum over the whole vocabulary are not those of another machine's.
    spread = float(f"{float(words_VD.float().std()):.3g}")
    return torch.randn(count, width, generator=draw) * spread


def image_start(section: AdapterSection, projection: torch.Tensor) -> torch.Tensor:
    """(P, D) in fp32 on the CPU: uniform within ± √(6 / (c·p² + D)), as Xavier's would be for the patches' projection.

    `projection`: (D, c, p, p). arXiv 2203.12119's code. Raises AdapterError for a start from words.
    """
    if section.init == "weights":
        raise AdapterError(
            'adapter.init = "weights" starts a prompt from words, and images have none; set init to "random"'
        )
    width, bound = len(projection), math.sqrt(6 / (projection[0].numel() + len(projection)))
    draw = generator(section.seed, "adapter", client="prompt")
    return (2 * torch.rand(section.prompt_tokens, width, generator=draw) - 1) * bound
