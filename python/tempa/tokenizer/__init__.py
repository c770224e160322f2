"""Byte-level BPE and character tokenizers: train, encode, decode, load and save."""

from tempa.tokenizer.fit import Fit as Fit
from tempa.tokenizer.fit import SourceFit as SourceFit
from tempa.tokenizer.fit import measure_fit as measure_fit
from tempa.tokenizer.package import PackageTokenizer as PackageTokenizer
from tempa.tokenizer.package import load_tokenizer as load_tokenizer
from tempa.tokenizer.placed import Placed as Placed
from tempa.tokenizer.specials import DEFAULT_SPECIALS as DEFAULT_SPECIALS
from tempa.tokenizer.specials import END_OF_TEXT as END_OF_TEXT
from tempa.tokenizer.specials import TIKTOKEN_SPECIALS as TIKTOKEN_SPECIALS
from tempa.tokenizer.streams import StreamDecoder as StreamDecoder
from tempa.tokenizer.streams import StreamEncoder as StreamEncoder
from tempa.tokenizer.tokenizer import Ids as Ids
from tempa.tokenizer.tokenizer import Pattern as Pattern
from tempa.tokenizer.tokenizer import Tokenizer as Tokenizer
