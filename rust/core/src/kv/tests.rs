mod soak;

use super::*;
use crate::Result;

fn one_group(num_blocks: usize) -> Vec<Group> {
    vec![Group { num_blocks, window: None, sinks: 0 }]
}

fn manager(num_blocks: usize, block_size: usize) -> KvManager {
    KvManager::new(&one_group(num_blocks), block_size, 0).unwrap()
}

fn admit(kv: &mut KvManager, prompts: &[&[u32]]) -> Admission {
    let tokens = prompts.concat();
    let mut offsets = vec![0];
    for prompt in prompts {
        offsets.push(offsets.last().unwrap() + prompt.len() as i64);
    }
    kv.admit(Requests { tokens: &tokens, offsets: &offsets, ..Requests::default() }).unwrap()
}

/// A step into arrays of its own: tables, slots, copies.
fn step(
    kv: &mut KvManager,
    handles: &[i64],
    counts: &[i64],
    tokens: &[u32],
) -> Result<(Vec<i32>, Vec<i32>, Vec<BlockCopy>)> {
    let (groups, width) = (kv.groups().len(), 64);
    let mut tables = vec![-1; groups * handles.len() * width];
    let mut slots = vec![-1; groups * counts.iter().sum::<i64>().max(0) as usize];
    let mut lengths = vec![-1; handles.len()];
    let (tables_out, num_rows) = (&mut tables[..], handles.len());
    let arrays = Arrays {
        tables: tables_out,
        num_rows,
        width,
        slots: &mut slots,
        lengths: &mut lengths,
        is_same: false,
    };
    let copies = kv.step(handles, Some(counts), Some(tokens), arrays)?;
    Ok((tables, slots, copies))
}

/// Admits, writes and frees a prompt.
fn remember(kv: &mut KvManager, prompt: &[u32]) {
    let admission = admit(kv, &[prompt]);
    step(kv, &admission.handles, &[prompt.len() as i64 - admission.num_cached[0]], &[]).unwrap();
    kv.free(&admission.handles, true).unwrap();
}

#[test]
fn a_stored_block_costs_at_most_128_bytes_with_its_64_bytes_of_tokens() {
    let kv = manager(4096, 16);
    assert!(kv.bytes_per_block() <= 128.0, "{}", kv.bytes_per_block());
}

#[test]
fn forks_share_full_blocks_and_the_last_writer_keeps_the_partial_one() {
    let mut kv = manager(8, 4);
    let prompt = admit(&mut kv, &[&[1, 2, 3, 4, 5, 6]]).handles[0];
    step(&mut kv, &[prompt], &[6], &[]).unwrap();
    let mut all = kv.fork(prompt, 2).unwrap();
    assert_eq!(kv.num_available(0), 6, "forking takes no block");
    all.insert(0, prompt);
    let (tables, _, copies) = step(&mut kv, &all, &[1, 1, 1], &[7, 8, 9]).unwrap();
    assert_eq!(kv.num_available(0), 4, "two of the three copy the block that holds tokens 4 and 5");
    assert_eq!(copies.len(), 2);
    assert!(copies.iter().all(|copy| copy.num_tokens == 2));
    assert!(tables[0] == tables[64] && tables[64] == tables[128], "the full block is shared");
    kv.check().unwrap();
}

#[test]
fn mistakes_are_named_and_change_nothing() {
    let mut kv = manager(2, 4);
    let handles = admit(&mut kv, &[&[1], &[2]]).handles;
    let mut refused = |handles: &[i64], counts: &[i64], tokens: &[u32]| {
        step(&mut kv, handles, counts, tokens).map(|_| ()).unwrap_err().to_string()
    };
    let many = [0; 20];
    assert_eq!(refused(&handles, &[8, 1], &many[..7]), "3 cache blocks needed, 2 of 2 are free");
    assert!(refused(&handles, &[-1, 1], &[]).contains("cannot add -1 tokens"));
    assert!(refused(&handles, &[1000, 1], &[]).contains("its row has room for 64 blocks of 4"));
    assert!(refused(&[handles[0]; 2], &[1, 1], &[]).contains("comes twice"));
    assert!(refused(&[99], &[1], &[]).contains("no sequence has the handle 99"));
    assert!(refused(&handles, &[1, 2], &[]).contains("needs 1 new tokens, got 0"));
    assert!(kv.free(&[handles[0], handles[0]], true).is_err());
    assert!(kv.fork(-1, 1).is_err());
    assert!(kv.resume(&handles).is_err());
    assert!(kv.rollback(&handles, &[0, 1]).is_err());
    assert_eq!(kv.num_available(0), 2);
    kv.check().unwrap();
    step(&mut kv, &handles, &[4, 4], &[1; 6]).unwrap();
    kv.free(&handles, true).unwrap();
    assert_ne!(admit(&mut kv, &[&[1]]).handles[0], handles[0], "handles are not used again");
    for (groups, block_size, watermark) in [
        (vec![], 4, 0),
        (one_group(0), 4, 0),
        (one_group(4), 0, 0),
        (one_group(1 << 29), 4, 0),
        (one_group(4), 4, 4),
        (vec![Group { num_blocks: 4, window: Some(0), sinks: 0 }], 4, 0),
        (vec![Group { num_blocks: 4, window: None, sinks: 1 }], 4, 0),
    ] {
        assert!(KvManager::new(&groups, block_size, watermark).is_err());
    }
}

#[test]
fn requests_that_cannot_be_are_refused_as_a_whole() {
    let mut kv = manager(4, 4);
    let ids = [1; 20];
    let message = |kv: &mut KvManager, requests| kv.admit(requests).unwrap_err().to_string();
    let base = Requests { tokens: &ids, offsets: &[0, 4, 20], ..Requests::default() };
    assert_eq!(
        message(&mut kv, Requests { offsets: &[0, 20], ..base }),
        "prompt 0 can never fit: it needs 5 cache blocks, and 4 of 4 are for admission"
    );
    assert!(message(&mut kv, Requests { offsets: &[0, 4], ..base }).contains("offsets"));
    assert!(
        message(&mut kv, Requests { offsets: &[0, 4, 4, 20], ..base }).contains("prompt 1 goes from 4 to 4")
    );
    assert!(
        message(&mut kv, Requests { offsets: &[0, 30, 20], ..base }).contains("prompt 0 goes from 0 to 30")
    );
    assert!(message(&mut kv, Requests { priorities: &[0], ..base }).contains("2 prompts but 1 priorities"));
    assert!(message(&mut kv, Requests { priorities: &[0, 32], ..base }).contains("priority 32"));
    assert!(message(&mut kv, Requests { reserves: &[-1, 0], ..base }).contains("-1"));
    kv.check().unwrap();
    let first = kv.admit(base).unwrap();
    assert_eq!(first.handles.len(), 1, "the second fits an empty cache only");
}

#[test]
fn a_prefix_is_hit_up_to_the_last_token_but_one() {
    let mut kv = manager(16, 4);
    remember(&mut kv, &[1, 2, 3, 4, 5, 6, 7, 8]);
    let again = admit(&mut kv, &[&[1, 2, 3, 4, 5, 6, 7, 8]]);
    assert_eq!(again.num_cached, [7], "logits need a token");
    assert_eq!(again.copies[0].num_tokens, 3);
    let longer = admit(&mut kv, &[&[1, 2, 3, 4, 5, 6, 7, 8, 9]]);
    assert_eq!((longer.num_cached[0], longer.copies.len()), (8, 0));
    let other = admit(&mut kv, &[&[1, 2, 3, 4, 5, 6, 0, 0]]);
    assert_eq!(
        (other.num_cached[0], other.copies[0].num_tokens),
        (6, 2),
        "the beginning of a block is copied"
    );
    kv.check().unwrap();
}

#[test]
fn ends_are_evicted_before_the_prefix_they_need() {
    let mut kv = manager(4, 2);
    remember(&mut kv, &[1, 2, 3, 4, 5, 6]);
    remember(&mut kv, &[9, 9, 9, 9]);
    // Five blocks for four places: one of the first prompt had to go.
    assert_eq!(admit(&mut kv, &[&[1, 2, 3, 4, 5, 6, 7]]).num_cached, [4]);
}

#[test]
fn eviction_ahead_lets_go_what_would_go_first() {
    let mut kv = manager(8, 2);
    remember(&mut kv, &[1, 2, 3, 4, 5, 6]);
    remember(&mut kv, &[9, 9, 9, 9]);
    assert_eq!((kv.evict(2), kv.num_cached(0), kv.num_available(0)), (vec![2], 3, 8));
    assert_eq!(admit(&mut kv, &[&[1, 2, 3, 4, 5, 6]]).num_cached, [2], "the end of the older prompt is gone");
    assert_eq!(kv.evict(8), [2], "what a sequence lists stays");
    kv.check().unwrap();
}

#[test]
fn siblings_are_found_whichever_came_first_and_whoever_goes() {
    let mut kv = manager(32, 2);
    for last in 0..5 {
        remember(&mut kv, &[1, 2, last, last, 7, 7]);
        kv.check().unwrap();
    }
    for num_left in (0..11).rev() {
        kv.evict(1);
        assert_eq!(kv.stats().num_stored, num_left);
        kv.check().unwrap();
    }
    remember(&mut kv, &[1, 2, 3, 3]);
    assert_eq!(admit(&mut kv, &[&[1, 2, 3, 3, 0]]).num_cached, [4]);
}

#[test]
fn tokens_come_back_from_the_index_when_a_sequence_needs_them() {
    let mut kv = manager(32, 2);
    let first = admit(&mut kv, &[&[1, 2, 3, 4, 5]]).handles[0];
    step(&mut kv, &[first], &[5], &[]).unwrap();
    let fork = kv.fork(first, 1).unwrap()[0];
    kv.commit(&[first, fork]).unwrap();
    kv.rollback(&[fork], &[2]).unwrap();
    kv.preempt(&[first, fork]).unwrap();
    kv.reset(1);
    // Neither finds anything now: the tokens of both are what they were.
    assert_eq!(kv.resume(&[first, fork]).unwrap().num_cached, [0, 0]);
    step(&mut kv, &[first, fork], &[5, 3], &[]).unwrap();
    kv.free(&[first, fork], true).unwrap();
    assert_eq!(admit(&mut kv, &[&[1, 2, 3, 4, 5, 6]]).num_cached, [4]);
    kv.check().unwrap();
}

#[test]
fn drafts_and_what_is_not_written_yet_are_not_hit() {
    let mut kv = manager(16, 2);
    let first = admit(&mut kv, &[&[1, 2, 3]]).handles;
    step(&mut kv, &first, &[3], &[]).unwrap();
    assert_eq!(admit(&mut kv, &[&[1, 2, 3]]).num_cached, [0], "its kernel may not have been launched");
    step(&mut kv, &first, &[3], &[4, 5, 6]).unwrap();
    assert_eq!(admit(&mut kv, &[&[1, 2, 3, 4, 5, 6, 7]]).num_cached, [2], "drafts are not final");
    kv.rollback(&first, &[2]).unwrap();
    step(&mut kv, &first, &[2], &[8, 9]).unwrap();
    kv.commit(&first).unwrap();
    assert_eq!(admit(&mut kv, &[&[1, 2, 3, 4, 5, 6, 7]]).num_cached, [4]);
    assert_eq!(admit(&mut kv, &[&[1, 2, 3, 4, 8, 9, 7]]).num_cached, [6]);
    kv.check().unwrap();
}

#[test]
fn equal_blocks_are_stored_once() {
    let mut kv = manager(16, 2);
    let both = admit(&mut kv, &[&[1, 2, 3, 4], &[1, 2, 3, 4]]).handles;
    step(&mut kv, &both, &[4, 4], &[]).unwrap();
    assert_eq!(kv.num_available(0), 12);
    let (tables, ..) = step(&mut kv, &both, &[1, 1], &[5, 5]).unwrap();
    assert_eq!(kv.num_available(0), 12, "two new blocks, and two given back");
    assert_eq!(tables[..2], tables[64..66]);
    kv.check().unwrap();
}

#[test]
fn a_reset_forgets_prefixes_and_live_sequences_store_nothing_more() {
    let mut kv = manager(16, 2);
    remember(&mut kv, &[1, 2, 3, 4]);
    let live = admit(&mut kv, &[&[7, 7, 7]]).handles;
    step(&mut kv, &live, &[3], &[]).unwrap();
    assert!(!kv.reset(0), "the epoch is that of the beginning");
    assert!(kv.reset(1));
    assert_eq!(admit(&mut kv, &[&[1, 2, 3, 4]]).num_cached, [0]);
    step(&mut kv, &live, &[2], &[7, 7]).unwrap();
    kv.free(&live, true).unwrap();
    assert_eq!(admit(&mut kv, &[&[7, 7, 7, 7]]).num_cached, [0], "computed with the old weights");
    kv.check().unwrap();
}
