"""From files to a corpus for training, in one pass: cleaned, without duplicates, split, tokenised.

A corpus is a directory with the shards `train/` and `val/`, the `tokenizer.json` that made them and the
reports `funnel.json` and `funnel.html`. It appears complete or not at all, and its shards are a function of
the documents and the settings: the same for any number of threads and machines, and after an interruption.
"""

from tempa.data.corpus.config import BuildConfig, Source
from tempa.data.corpus.finish import CORPUS, FUNNEL, FUNNEL_PAGE, Corpus
from tempa.data.corpus.local import build, build_corpus

__all__ = ["CORPUS", "FUNNEL", "FUNNEL_PAGE", "BuildConfig", "Corpus", "Source", "build", "build_corpus"]
