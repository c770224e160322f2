//! `tempa._core`: the Rust algorithms as a private Python module. Conversions only; one file per module.

use pyo3::prelude::*;

mod attend;
mod border;
mod bpe;
mod bpe_train;
mod chat;
mod checksum;
mod classify;
mod corpus;
mod cuda;
mod decode;
mod decontaminate;
mod dedup;
mod error;
mod exchange;
mod grade;
mod ints;
mod kv;
mod pack;
mod perplexity;
mod pii;
mod quality;
mod repair;
mod rng;
mod sample;
mod scan;
mod shard;
mod text;
mod texts;
mod unwanted;

/// The private extension module; `python/tempa` is the public face.
#[pymodule]
mod _core {
    use super::*;

    #[pymodule_export]
    use attend::{paged_attention, plan_splits};
    #[pymodule_export]
    use bpe::{StreamDecoder, StreamEncoder, Tokenizer, write_whole};
    #[pymodule_export]
    use bpe_train::PieceCounts;
    #[pymodule_export]
    use chat::render_chats;
    #[pymodule_export]
    use checksum::checksum;
    #[pymodule_export]
    use classify::{Classifier, text_features};
    #[pymodule_export]
    use corpus::{StagedDocuments, Stager, Step, Work, count_processors};
    #[pymodule_export]
    use cuda::{CudaKernel, TensorMap};
    #[pymodule_export]
    use decode::{Decoder, MemoryReader};
    #[pymodule_export]
    use decontaminate::EvalItems;
    #[pymodule_export]
    use dedup::{
        SeenPieces, SignatureIndex, canonical_urls, choose_bands, collision_probability, content_hashes,
        drop_stretches, encode_index, exact_duplicates, near_duplicates, repeated_stretches, shingle_set,
    };
    #[pymodule_export]
    use error::TempaError;
    #[pymodule_export]
    use grade::{answers_equal, evaluate_arithmetic, extract_answer, grade_texts};
    #[pymodule_export]
    use kv::KvManager;
    #[pymodule_export]
    use pack::{Loader, Rows, pack_rows, permutation};
    #[pymodule_export]
    use perplexity::NgramModel;
    #[pymodule_export]
    use pii::{find_pii, mask_pii};
    #[pymodule_export]
    use quality::{clean_texts, line_edits, measure_text, quality_rules};
    #[pymodule_export]
    use repair::repair_texts;
    #[pymodule_export]
    use rng::{random_bits, random_uniform};
    #[pymodule_export]
    use sample::{Sampler, check_sampling};
    #[pymodule_export]
    use scan::{gae, reward_to_go};
    #[pymodule_export]
    use shard::{ShardWriter, Shards, write_shard_manifest};
    #[pymodule_export]
    use text::normalize_text;
    #[pymodule_export]
    use unwanted::{UnwantedPhrases, UnwantedUrls};

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
