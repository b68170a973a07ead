//! A transaction and a thaw log from arbitrary bytes: they are read back, and the log is continued.

#![no_main]

use floe::format::transaction::{Operation, Transaction};
use floe::storage::Folder;
use floe::storage::testing::MemoryFolder;
use floe::thaw::{Binding, ImageState, Slot, ThawError, ThawLog, recover};
use libfuzzer_sys::fuzz_target;
use std::sync::Arc;

const SEGMENT: u64 = 16 << 10;

fuzz_target!(|data: &[u8]| {
    if let Ok(transaction) = Transaction::decode(data) {
        let again = transaction.encode().expect("what was decoded is not too long");
        assert_eq!(Transaction::decode(&again), Ok(transaction));
    }
    // A real log, with some of its bytes overwritten by the input: the header checksums reject most purely random
    // input.
    let Some((at, bytes)) = data.split_first_chunk::<4>() else { return };
    let binding = Binding { uuid: [1; 16], lineage: [2; 16], generation: 3, root_hash: [4; 32] };
    let slot = Slot { generation: 3, root_hash: [4; 32], thaw_log_id: 9, root_log_id: 0, thaw_transaction: 0 };
    let image = ImageState { uuid: [1; 16], lineage: [2; 16], len: 0, slots: vec![slot] };
    let folder = Arc::new(MemoryFolder::new());
    let mut log = ThawLog::create(folder.clone(), binding, 9, 1, SEGMENT).expect("memory takes it");
    for n in 0..5 {
        log.append(&vec![n; 4000]).expect("it fits");
        let operations = if n == 2 { vec![Operation::Checkpoint { generation: u64::MAX }; 2000] } else { Vec::new() };
        log.commit(operations, 0, (0, 0)).expect("it fits");
    }
    drop(log);
    let mut segments = folder.to_segments();
    let at = u32::from_le_bytes(*at) as usize;
    let number = (at >> 20) as u64 % segments.len() as u64;
    if let Some(segment) = segments.get_mut(&number).filter(|segment| !segment.is_empty()) {
        let start = at % segment.len();
        let len = bytes.len().min(segment.len() - start);
        segment[start..start + len].copy_from_slice(&bytes[..len]);
    }
    let before = segments.clone();
    let folder = Arc::new(MemoryFolder::from_segments(segments));
    let recovered = recover(folder.clone(), &image);
    assert_eq!(folder.to_segments(), before, "recovery writes nothing");
    if let Ok(Some(mut recovered)) = recovered {
        let last = recovered.last_transaction();
        let contained = recovered.before();
        let mut count = contained;
        let replayed = recovered.replay(contained, |_| {
            count += 1;
            Ok::<(), ThawError>(())
        });
        assert!(replayed.is_err() || count == last);
        recovered.verify_written().expect("memory can be read");
        if let Ok((mut log, _)) = recovered.resume(binding, 2, contained) {
            // Transactions without operations at its end may be dropped.
            let last = log.last_transaction();
            log.commit(Vec::new(), 0, (0, 0)).expect("memory takes it");
            let again = recover(folder.clone(), &image).expect("what was gone on with is whole");
            assert_eq!(again.expect("it has a commit").last_transaction(), last + 1);
        }
    }
    assert!(folder.list().is_ok());
});
