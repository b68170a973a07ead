//! Files that are changed and frozen again: their bytes stay, and their borders are those of a fresh cut.

#[path = "common/freezing.rs"]
mod freezing;

use floe::format::ids::{LogOffset, SubchunkId};
use floe::format::params::{Chunker, Params};
use floe::freeze::{
    Batch, Blocks, CutError, Cutting, FIXED_LEN, Last, Layout, Scope, Span, SpanSource, choose, cut_file,
};
use freezing::{File, Image, Source, cut_anew, freeze, freeze_once, noise, options, small};
use proptest::prelude::*;

const CHANGED: Cutting = Cutting { scope: Scope::Changed, blocks: Blocks::Image };
const EVERYTHING: Cutting = Cutting { scope: Scope::Everything, blocks: Blocks::Image };
const FIXED: Cutting = Cutting { scope: Scope::Changed, blocks: Blocks::Fixed };
/// More than any file here has.
const NO_LIMIT: u64 = 1 << 30;

#[derive(Debug, Clone)]
enum Edit {
    /// Offset, length, seed, number of different bytes.
    Write(usize, usize, u64, u8),
    Append(usize, u64),
    /// Writes the same bytes once more.
    Again(usize, usize),
    Truncate(usize),
    Punch(usize, usize),
    Lose(usize, usize),
    Freeze {
        limit: u64,
        drop_first: bool,
    },
}

fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let edit = prop_oneof![
        4 => (0usize..30_000, 1usize..6000, 0u64..50, prop::sample::select(vec![1u8, 3, 255, 255, 255]))
            .prop_map(|(at, len, seed, alphabet)| Edit::Write(at, len, seed, alphabet)),
        2 => (1usize..8000, 0u64..50).prop_map(|(len, seed)| Edit::Append(len, seed)),
        1 => (0usize..30_000, 1usize..3000).prop_map(|(at, len)| Edit::Again(at, len)),
        1 => (0usize..40_000).prop_map(Edit::Truncate),
        1 => (0usize..30_000, 1usize..4000).prop_map(|(at, len)| Edit::Punch(at, len)),
        1 => (0usize..30_000, 1usize..500).prop_map(|(at, len)| Edit::Lose(at, len)),
        3 => (prop::sample::select(vec![1, 3000, NO_LIMIT]), any::<bool>())
            .prop_map(|(limit, drop_first)| Edit::Freeze { limit, drop_first }),
    ];
    prop::collection::vec(edit, 1..14)
}

fn apply(file: &mut File, edit: &Edit) {
    match *edit {
        Edit::Write(at, len, seed, alphabet) => {
            let bytes: Vec<u8> = noise(len, seed).into_iter().map(|byte| byte % alphabet).collect();
            file.write(at.min(file.len() + 1000), &bytes);
        }
        Edit::Append(len, seed) => file.write(file.len(), &noise(len, seed)),
        Edit::Again(at, len) => {
            let end = file.len().min(at + len);
            if at < end && (at..end).all(|at| file.is_data(at)) {
                let bytes = file.bytes[at..end].to_vec();
                file.write(at, &bytes);
            }
        }
        Edit::Truncate(to) => file.resize(to),
        Edit::Punch(at, len) => file.set(at, len, Source::Hole),
        Edit::Lose(at, len) => file.set(at, len, Source::Lost),
        Edit::Freeze { .. } => {}
    }
}

fn check(image: &Image, file: &File) -> Result<(), TestCaseError> {
    prop_assert!(!file.has_thawed());
    for run in file.runs().into_iter().filter(|run| !matches!(file.sources[run.0], Source::Tiny(_))) {
        prop_assert!(file.uneven || file.sliced || file.is_even(image, run));
        if !file.uneven && file.is_even(image, run) {
            prop_assert_eq!(file.borders(run), cut_anew(&image.params, file, run));
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn what_is_frozen_after_any_changes_has_its_bytes_and_the_borders_of_cutting_it_anew(
        edits in edits(),
        tiny in prop_oneof![3 => Just(0usize), 1 => 1usize..512],
        params in prop::sample::select(vec![
            small(),
            Params { min_match: 64, ..small() },
            Params { chunker: Chunker::Fixed(256), superchunk_size: 8192, ..Params::default() },
            Params { chunker: Chunker::FastCdc { min: 1, avg: 64, max: 64 }, superchunk_size: 8192, ..Params::default() },
        ]),
    ) {
        let mut image = Image::new(params);
        let mut file = File::tiny(&noise(tiny, 7));
        let mut model = file.bytes.clone();
        for edit in edits.iter().chain([&Edit::Freeze { limit: NO_LIMIT, drop_first: false }]) {
            if let Edit::Freeze { limit, drop_first } = edit {
                // Splicing compares the bytes.
                freeze(&mut file, &mut image, CHANGED, *limit, *drop_first);
                check(&image, &file)?;
                prop_assert_eq!(&file.bytes, &model);
            } else {
                apply(&mut file, edit);
                model.clone_from(&file.bytes);
            }
        }
        // Everything is cut again: whatever happened before, all borders are the chunker's.
        let was_tiny = file.sources.iter().any(|source| matches!(source, Source::Tiny(_)));
        file.uneven = false;
        freeze(&mut file, &mut image, EVERYTHING, 5000, false);
        prop_assert_eq!(&file.bytes, &model);
        for run in file.runs().into_iter().filter(|_| !was_tiny) {
            prop_assert!(file.is_even(&image, run));
            prop_assert_eq!(file.borders(run), cut_anew(&image.params, &file, run));
        }
    }

    #[test]
    fn blocks_are_cut_only_where_something_changed(
        writes in prop::collection::vec((0usize..300_000, 1usize..5000, any::<u64>()), 1..12),
        holes in prop::collection::vec((0usize..300_000, 1usize..50_000), 0..3),
    ) {
        let mut image = Image::new(Params::default());
        let mut file = File::default();
        file.write(0, &noise(300_000, 1));
        freeze(&mut file, &mut image, CHANGED, NO_LIMIT, false);
        for (at, len) in holes {
            file.set(at, len, Source::Hole);
        }
        for &(at, len, seed) in &writes {
            file.write(at, &noise(len, seed));
        }
        let before = file.clone();
        let rounds = freeze(&mut file, &mut image, FIXED, NO_LIMIT, false);
        prop_assert!(!file.has_thawed());
        prop_assert_eq!(&file.bytes, &before.bytes);
        let block = FIXED_LEN as usize;
        for region in rounds.iter().flat_map(|round| &round.cut.regions) {
            prop_assert!(region.uneven);
            let mut at = region.begin as usize;
            for piece in &region.pieces {
                let end = at + piece.len as usize;
                prop_assert_eq!(at / block, (end - 1) / block);
                // It ends at the end of its block or of the data, and its block has a change.
                prop_assert!(end.is_multiple_of(block) || end == file.len() || !file.is_data(end));
                let changed = before.sources[at / block * block..].iter().take(block);
                prop_assert!(changed.into_iter().any(|source| matches!(source, Source::Thawed(..))));
                at = end;
            }
        }
    }
}

#[test]
fn a_content_of_blocks_is_cut_by_the_chunker_when_everything_is_cut_anew() {
    let mut image = Image::new(Params::default());
    let mut file = File::default();
    file.write(0, &noise(400_000, 1));
    freeze(&mut file, &mut image, CHANGED, NO_LIMIT, false);
    file.write(200_000, b"changed");
    freeze(&mut file, &mut image, FIXED, NO_LIMIT, false);
    assert!(file.uneven && !file.is_even(&image, (0, 400_000)));
    file.uneven = false;
    for round in freeze(&mut file, &mut image, Cutting { blocks: Blocks::Fixed, ..EVERYTHING }, NO_LIMIT, false) {
        assert_eq!(round.cut.regions.len(), 1);
    }
    assert!(!file.uneven && file.is_even(&image, (0, 400_000)));
    check(&image, &file).unwrap();
}

/// A frozen file of random bytes.
fn frozen(len: usize) -> (Image, File) {
    let mut image = Image::new(small());
    let mut file = File::default();
    file.write(0, &noise(len, 1));
    freeze(&mut file, &mut image, CHANGED, NO_LIMIT, false);
    (image, file)
}

#[test]
fn a_small_change_in_a_large_file_cuts_a_few_subchunks_anew_and_reads_little() {
    let (mut image, mut file) = frozen(1 << 20);
    let (mut pieces, mut read) = (0, 0);
    const CHANGES: u64 = 200;
    for n in 0..CHANGES {
        file.write((n * 7919 * 31) as usize % (1 << 20), &noise(40, n)[..]);
        let round = freeze_once(&mut file, &mut image, CHANGED, (0, NO_LIMIT, true));
        assert_eq!(round.kept.next, None);
        pieces += round.cut.regions.iter().map(|region| region.pieces.len()).sum::<usize>();
        read += round.read;
    }
    check(&image, &file).unwrap();
    assert!(!file.uneven);
    // An average subchunk has about 300 bytes.
    assert!(pieces as u64 <= 3 * CHANGES, "{pieces} subchunks for {CHANGES} changes");
    assert!(read <= 20 * 300 * CHANGES, "{read} bytes read for {CHANGES} changes");
}

#[test]
fn an_append_cuts_the_last_subchunk_anew_and_no_other() {
    let (mut image, mut file) = frozen(100_000);
    let borders = file.borders((0, 100_000));
    file.write(100_000, &noise(5000, 2));
    let round = freeze_once(&mut file, &mut image, CHANGED, (0, NO_LIMIT, true));
    assert_eq!(round.cut.regions.len(), 1);
    assert_eq!(round.cut.regions[0].begin as usize, borders[borders.len() - 2]);
    check(&image, &file).unwrap();
}

#[test]
fn a_truncated_file_has_nothing_to_be_cut_and_is_cut_at_its_end_when_it_grows_again() {
    let (mut image, mut file) = frozen(100_000);
    file.resize(50_001);
    assert!(file.is_even(&image, (0, 50_001)));
    let round = freeze_once(&mut file, &mut image, CHANGED, (0, NO_LIMIT, true));
    assert!(round.cut.regions.is_empty() && round.cut.next.is_none());
    check(&image, &file).unwrap();
    file.write(50_001, &noise(3000, 9));
    freeze(&mut file, &mut image, CHANGED, NO_LIMIT, false);
    assert!(file.is_even(&image, (0, 53_001)) && !file.uneven);
    check(&image, &file).unwrap();
}

#[test]
fn slices_around_a_hole_stay_until_something_beside_them_changes() {
    let (mut image, mut file) = frozen(100_000);
    file.set(40_000, 10_000, Source::Hole);
    file.write(90_000, b"far away");
    let round = freeze_once(&mut file, &mut image, CHANGED, (0, NO_LIMIT, true));
    assert!(round.cut.regions.iter().all(|region| region.begin > 80_000));
    assert!(!file.is_even(&image, (50_000, 100_000)));
    file.write(49_990, b"beside the slice after the hole");
    freeze(&mut file, &mut image, CHANGED, NO_LIMIT, false);
    assert!(file.is_even(&image, (49_990, 100_000)));
    check(&image, &file).unwrap();
}

#[test]
fn where_borders_never_are_the_old_ones_again_a_region_ends_all_the_same_and_says_so() {
    let mut image = Image::new(small());
    let mut file = File::default();
    file.write(0, &vec![0; 400_000]);
    freeze(&mut file, &mut image, CHANGED, NO_LIMIT, false);
    assert!(!file.uneven);
    file.write(100_100, &noise(600, 3));
    let round = freeze_once(&mut file, &mut image, CHANGED, (0, NO_LIMIT, true));
    let [region] = &round.cut.regions[..] else { panic!("{:?}", round.cut) };
    assert!(region.uneven && file.uneven);
    assert!(region.end() < 150_000, "{}", region.end());
    assert!(!file.has_thawed());
}

#[test]
fn a_batch_that_is_full_ends_inside_a_file_which_goes_on_from_there() {
    let mut image = Image::new(small());
    let mut file = File::default();
    file.write(0, &noise(200_000, 5));
    let rounds = freeze(&mut file, &mut image, CHANGED, 20_000, false);
    assert!((9..12).contains(&rounds.len()), "{}", rounds.len());
    for round in &rounds {
        let bytes: u64 = round.cut.regions.iter().map(|region| region.len()).sum();
        assert!(bytes < 22_000, "{bytes}");
    }
    check(&image, &file).unwrap();
    assert!(file.is_even(&image, (0, 200_000)) && !file.uneven);
}

#[test]
fn a_batch_that_ends_where_it_leaves_a_part_of_a_subchunk_behind_says_that_the_content_is_uneven() {
    let mut image = Image::new(Params { chunker: Chunker::Fixed(256), superchunk_size: 8192, ..Params::default() });
    let mut file = File::default();
    file.write(0, &noise(50_000, 1));
    freeze(&mut file, &mut image, CHANGED, NO_LIMIT, false);
    // From here on, old and new borders never meet.
    file.set(0, 1000, Source::Hole);
    file.write(900, &noise(200, 2));
    let round = freeze_once(&mut file, &mut image, CHANGED, (0, 1, true));
    assert!(round.cut.next.is_some() && !round.cut.regions[0].pieces.last().unwrap().clean);
    assert!(file.uneven);
}

#[test]
fn who_stops_a_freeze_keeps_what_is_cut_by_then() {
    let mut file = File::default();
    file.write(0, &noise(100_000, 5));
    let image = Image::new(small());
    let mut batch = Batch::new(options(small(), NO_LIMIT), &image).unwrap();
    let asked = std::cell::Cell::new(0);
    let stop = || asked.replace(asked.get() + 1) >= 20;
    let cut = cut_file(&mut file.layout(&image), CHANGED, 0, &mut batch, &stop).unwrap();
    assert_eq!(cut.regions.len(), 1);
    assert_eq!(cut.regions[0].pieces.len(), 20);
    assert_eq!(cut.next, Some(cut.regions[0].end()));
}

#[test]
fn a_file_that_cannot_be_read_leaves_the_batch_to_others() {
    let image = Image::new(small());
    let (mut bad, mut good) = (File::default(), File::default());
    bad.write(0, &noise(300_000, 5));
    good.write(0, &noise(10_000, 6));
    let mut batch = Batch::new(options(small(), NO_LIMIT), &image).unwrap();
    let mut seen = bad.layout(&image);
    seen.fail_from = 200_000;
    let error = cut_file(&mut seen, CHANGED, 0, &mut batch, &|| false).unwrap_err();
    assert!(matches!(error, CutError::Layout(_)), "{error:?}");
    let cut = cut_file(&mut good.layout(&image), CHANGED, 0, &mut batch, &|| false).unwrap();
    let packed = batch.finish(Last::Keep).unwrap();
    assert_eq!(packed.kept(&cut).regions[0].end, 10_000);
}

#[test]
fn a_tiny_content_is_cut_with_whatever_else_is_thawed_and_is_not_by_itself() {
    let mut image = Image::new(small());
    let mut file = File::tiny(&noise(100, 1));
    for how in [CHANGED, EVERYTHING] {
        let round = freeze_once(&mut file, &mut image, how, (0, NO_LIMIT, true));
        assert!(round.cut.regions.is_empty());
    }
    file.write(5000, &noise(10, 2));
    file.write(20, &noise(10, 3));
    // Everything is in the last superchunk: without it nothing may be spliced.
    let round = freeze_once(&mut file, &mut image, CHANGED, (0, NO_LIMIT, false));
    assert_eq!((round.cut.tiny, round.kept.regions.len(), round.kept.next), (100, 0, Some(0)));
    let round = freeze_once(&mut file, &mut image, CHANGED, (0, NO_LIMIT, true));
    assert_eq!((round.cut.tiny, round.kept.regions.len()), (100, 2));
    assert_eq!(file.runs(), [(0, 100), (5000, 5010)]);
    check(&image, &file).unwrap();
}

/// A file of whole subchunks of equal length, with changes; none of it is in memory.
struct Huge {
    size: u64,
    subchunk: u64,
    /// Changed ranges, ascending.
    changes: Vec<(u64, u64)>,
    spans: u64,
    read: u64,
}

impl Layout for Huge {
    type Error = String;

    fn size(&self) -> u64 {
        self.size
    }

    fn span(&mut self, offset: u64) -> Result<Span, String> {
        self.spans += 1;
        let thawed = SpanSource::Thawed { frame: LogOffset(1), skip: 0, sum: 0 };
        if let Some(&(begin, end)) = self.changes.iter().find(|(begin, end)| (*begin..*end).contains(&offset)) {
            return Ok(Span { begin, len: end - begin, source: thawed });
        }
        let number = offset / self.subchunk;
        let whole = number * self.subchunk..(number + 1) * self.subchunk;
        let begin = self.changes.iter().map(|change| change.1).filter(|&end| end <= offset).max().unwrap_or(0);
        let end = self.changes.iter().map(|change| change.0).filter(|&begin| begin > offset).min().unwrap_or(u64::MAX);
        let (begin, end) = (begin.max(whole.start), end.min(whole.end).min(self.size));
        let skip = (begin - whole.start) as u32;
        let source = SpanSource::Stored { subchunk: SubchunkId(number + 1), skip, subchunk_len: self.subchunk as u32 };
        Ok(Span { begin, len: end - begin, source })
    }

    fn thawed(&mut self, from: u64) -> Result<Option<u64>, String> {
        Ok(self.changes.iter().find(|change| change.1 > from).map(|change| change.0.max(from)))
    }

    fn read(&mut self, offset: u64, out: &mut [u8]) -> Result<(), String> {
        self.read += out.len() as u64;
        out.copy_from_slice(&noise(out.len(), offset));
        Ok(())
    }
}

#[test]
fn a_change_in_a_file_of_a_tebibyte_looks_at_what_is_around_it_only() {
    let params = Params { chunker: Chunker::Fixed(32 << 10), ..Params::default() };
    let at = (700 << 30) + 5000;
    let mut huge = Huge { size: 1 << 40, subchunk: 32 << 10, changes: vec![(at, at + 4096)], spans: 0, read: 0 };
    let image = Image::new(params);
    let mut batch = Batch::new(options(params, NO_LIMIT), &image).unwrap();
    let cut = cut_file(&mut huge, CHANGED, 0, &mut batch, &|| false).unwrap();
    let [region] = &cut.regions[..] else { panic!("{cut:?}") };
    assert_eq!((region.begin, region.end(), region.pieces.len()), (700 << 30, (700 << 30) + (32 << 10), 1));
    assert!(huge.spans < 20 && huge.read <= 128 << 10, "{} spans, {} bytes", huge.spans, huge.read);
}

#[test]
fn a_large_file_is_cut_into_blocks_once_many_short_changes_are_inside_what_is_frozen() {
    let file = |size, changes| Huge { size, subchunk: 40_000, changes, spans: 0, read: 0 };
    let chosen = |mut huge: Huge, uneven| choose(&mut huge, &Params::default(), uneven).unwrap();
    let random = |count: u64, len: u64| (0..count).map(|n| (n * 1_000_000 + 7, n * 1_000_000 + 7 + len)).collect();
    const LARGE: u64 = 1 << 30;
    assert_eq!(chosen(file(LARGE, random(20, 4096)), false), Blocks::Fixed);
    assert_eq!(chosen(file(LARGE, random(1000, 4096)), false), Blocks::Fixed);
    // The changes are few, long, or in a small file; or the file is written for the first time.
    assert_eq!(chosen(file(LARGE, random(10, 4096)), false), Blocks::Image);
    assert_eq!(chosen(file(LARGE, random(20, 500_000)), false), Blocks::Image);
    assert_eq!(chosen(file(40 << 20, random(20, 4096)), false), Blocks::Image);
    assert_eq!(chosen(file(LARGE, vec![(0, LARGE)]), false), Blocks::Image);
    // An uneven content stays uneven if it is large.
    assert_eq!(chosen(file(LARGE, random(1, 4096)), true), Blocks::Fixed);
    assert_eq!(chosen(file(1 << 20, random(1, 4096)), true), Blocks::Image);
    let fixed = Params { chunker: Chunker::Fixed(4096), ..Params::default() };
    assert_eq!(choose(&mut file(LARGE, random(20, 4096)), &fixed, false).unwrap(), Blocks::Image);
    let mut many = file(LARGE, random(1000, 4096));
    choose(&mut many, &Params::default(), false).unwrap();
    assert!(many.spans < 2000, "{}", many.spans);
}
