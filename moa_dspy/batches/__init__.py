"""Provider batches: requests of many questions, sent together at half the price.

Questions run as usual. Their requests to a server that has batches are not sent one by one: they wait until every open
question waits, and go as one batch. So each stage of all questions is one batch. A journal in SQLite records what was
sent and what came back, so a killed process resumes without paying twice.

Batches           how batches are used
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
