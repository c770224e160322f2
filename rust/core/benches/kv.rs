//! Calls of the KV manager: the median time of each, or their instructions.
//!
//! `cargo bench --bench kv -- CASE` runs one case. Its calls are those of [`counted`], so that
//! `valgrind --tool=callgrind --toggle-collect='*counted*'` counts their instructions; `benches/bench_kv.py` does.

use std::hint::black_box;
use std::time::Instant;

use tempa_core::kv::{Arrays, Group, KvManager, Requests};
use tempa_core::{Error, Result, rng};

const BLOCK: usize = 16;
const PROMPT: usize = 8192;
const BATCH: usize = 256;
const WIDTH: usize = PROMPT / BLOCK;
const NUM_LEAVES: usize = 20_000;
/// Calls of a case. A sequence needs a new block in one of [`BLOCK`] steps.
const ROUNDS: usize = 4 * BLOCK;
const CASES: [&str; 4] = ["cold", "hot", "step", "evict"];

/// A manager and the arrays of its caller.
struct Server {
    kv: KvManager,
    tables: Vec<i32>,
    slots: Vec<i32>,
    lengths: Vec<i32>,
    num_prompts: u64,
}

impl Server {
    fn new(num_blocks: usize) -> Result<Self> {
        let group = Group { num_blocks, window: None, sinks: 0 };
        Ok(Self {
            kv: KvManager::new(&[group], BLOCK, 0)?,
            tables: vec![0; BATCH * WIDTH],
            slots: vec![0; PROMPT],
            lengths: vec![0; BATCH],
            num_prompts: 0,
        })
    }

    /// Tokens that no other prompt has.
    fn prompt(&mut self, len: usize) -> Vec<u32> {
        self.num_prompts += 1;
        (0..len as u64).map(|i| rng::below(128_000, 0, self.num_prompts, i) as u32).collect()
    }

    fn step(&mut self, handles: &[i64], counts: Option<&[i64]>, tokens: &[u32]) -> Result<()> {
        let arrays = Arrays {
            tables: &mut self.tables,
            num_rows: BATCH,
            width: WIDTH,
            slots: &mut self.slots,
            lengths: &mut self.lengths,
            is_same: true,
        };
        self.kv.step(handles, counts, Some(tokens), arrays).map(|_| ())
    }

    fn admit(&mut self, prompt: &[u32]) -> Result<i64> {
        let offsets = [0, prompt.len() as i64];
        let admission =
            self.kv.admit(Requests { tokens: prompt, offsets: &offsets, ..Requests::default() })?;
        self.step(&admission.handles, Some(&[prompt.len() as i64 - admission.num_cached[0]]), &[])?;
        Ok(admission.handles[0])
    }

    fn remember(&mut self, prompt: &[u32]) -> Result<()> {
        let handle = self.admit(prompt)?;
        self.kv.free(&[handle], true)
    }
}

type Call = Box<dyn FnMut() -> Result<()>>;

fn case(name: &str) -> Result<Call> {
    Ok(match name {
        // 8,192 new tokens to a full pool, which are freed again; the same tokens again and again.
        "cold" | "hot" => {
            let mut server = Server::new(32 * PROMPT / BLOCK)?;
            let mut prompts: Vec<Vec<u32>> = (0..32 + ROUNDS).map(|_| server.prompt(PROMPT)).collect();
            let known = prompts.split_off(ROUNDS);
            known.iter().try_for_each(|prompt| server.remember(prompt))?;
            if name == "cold" {
                Box::new(move || prompts.pop().map_or(Ok(()), |prompt| server.remember(&prompt)))
            } else {
                Box::new(move || server.admit(&known[0]).map(|_| ()))
            }
        }
        // A token for each sequence.
        "step" => {
            let mut server = Server::new(2 * PROMPT)?;
            let prompts: Vec<Vec<u32>> = (0..BATCH).map(|_| server.prompt(512)).collect();
            let handles: Vec<i64> =
                prompts.iter().map(|prompt| server.admit(prompt)).collect::<Result<_>>()?;
            server.kv.commit(&handles)?;
            let tokens = server.prompt(BATCH);
            Box::new(move || server.step(&handles, None, &tokens))
        }
        // The blocks of 64 tokens.
        "evict" => {
            let mut server = Server::new((1024 + NUM_LEAVES * 64) / BLOCK)?;
            let mut prompt = server.prompt(1024);
            for _ in 0..NUM_LEAVES {
                prompt.truncate(1024);
                prompt.extend(server.prompt(64));
                server.remember(&prompt)?;
            }
            Box::new(move || {
                server.kv.evict(64 / BLOCK);
                Ok(())
            })
        }
        _ => return Err(Error::value(format!("there is no case {name}: expected one of {CASES:?}"))),
    })
}

#[inline(never)]
fn counted(call: &mut Call) -> Result<()> {
    black_box(call)()
}

fn main() -> Result<()> {
    // Cargo adds `--bench`.
    let chosen: Vec<String> = std::env::args().skip(1).filter(|name| !name.starts_with("--")).collect();
    let all = CASES.map(String::from);
    for name in if chosen.is_empty() { &all[..] } else { &chosen } {
        let mut call = case(name)?;
        let mut times = Vec::new();
        for _ in 0..ROUNDS {
            let start = Instant::now();
            counted(&mut call)?;
            times.push(start.elapsed());
        }
        times.sort_unstable();
        println!("{name}: {:?}, median of {ROUNDS} calls", times[ROUNDS / 2]);
    }
    Ok(())
}
