//! Extraction and digest, in process: the result equals the source, and no file is ever written outside the target.

mod common;

use common::compare::{What, assert_same, assert_same_only};
use common::left_out::{left_out, need_root};
use common::{Lab, noise, prose, write, xattrs};
use floe::format::codec::Compression;
use floe::format::ids::InodeId;
use floe::format::params::{Chunker, Params};
use floe::format::rows::FileType;
use floe::fs::extract::{ExtractObserver, ExtractOptions, ExtractSummary, Overwrite, Pick, extract};
use floe::fs::{Fs, FsOptions, digest};
use floe::meta::{Image, ImageOptions};
use floe::pack::{PackObserver, PackOptions, pack};
use floe::storage::{Access, FileStorage};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// Records what it is told.
#[derive(Default)]
struct Told {
    errors: Mutex<Vec<String>>,
    warnings: Mutex<Vec<String>>,
}

impl ExtractObserver for Told {
    fn warning(&self, path: &[u8], message: &str) {
        self.warnings.lock().unwrap().push(format!("{}: {message}", String::from_utf8_lossy(path)));
    }

    fn error(&self, path: &[u8], message: &str) {
        self.errors.lock().unwrap().push(format!("{}: {message}", String::from_utf8_lossy(path)));
    }
}

impl PackObserver for Told {
    fn warning(&self, path: &[u8], message: &str) {
        self.warnings.lock().unwrap().push(format!("{}: {message}", String::from_utf8_lossy(path)));
    }
}

fn packed(lab: &Lab, tree: &Path, name: &str, options: &PackOptions) -> PathBuf {
    let image = lab.image(name);
    let told = Told::default();
    pack(&[tree.to_owned()], &image, options, &told).unwrap();
    assert_eq!(*told.warnings.lock().unwrap(), Vec::<String>::new());
    image
}

fn open(image: &Path) -> Arc<Fs> {
    let storage = Arc::new(FileStorage::open(image, Access::ReadOnly).unwrap());
    let image = Image::open(storage, ImageOptions::default()).unwrap();
    Fs::new(Arc::new(image), FsOptions { readahead: 0, ..FsOptions::default() })
}

/// Extracts and expects no error.
fn out(fs: &Fs, paths: &[&str], target: &Path, options: &ExtractOptions<'_>) -> ExtractSummary {
    let told = Told::default();
    let paths: Vec<Vec<u8>> = paths.iter().map(|path| path.as_bytes().to_vec()).collect();
    let summary = extract(fs, &paths, target, options, &told).unwrap();
    assert_eq!(*told.errors.lock().unwrap(), Vec::<String>::new());
    summary
}

/// A lab with a small tree, its image open.
fn small() -> (Lab, PathBuf, Arc<Fs>) {
    let lab = Lab::new();
    let tree = lab.tree("small");
    write(tree.join("a/b/one"), prose(1, 5000));
    write(tree.join("a/b/two"), b"two");
    write(tree.join("a/c/three"), noise(3, 70_000));
    write(tree.join("top"), b"top");
    fs::hard_link(tree.join("a/b/one"), tree.join("a/c/linked")).unwrap();
    symlink("../top", tree.join("a/link")).unwrap();
    let image = packed(&lab, &tree, "small.floe", &PackOptions::default());
    let fs = open(&image);
    (lab, tree, fs)
}

fn names(root: &Path) -> Vec<String> {
    let mut out = Vec::new();
    let mut todo = vec![root.to_owned()];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            out.push(path.strip_prefix(root).unwrap().to_str().unwrap().to_owned());
            if path.symlink_metadata().unwrap().is_dir() {
                todo.push(path);
            }
        }
    }
    out.sort();
    out
}

#[test]
fn the_nasty_tree_comes_out_as_it_went_in() {
    let lab = Lab::new();
    let tree = lab.small_nasty_tree();
    let fs = open(&packed(&lab, &tree, "nasty.floe", &PackOptions::default()));
    let target = lab.path("out");
    let summary = out(&fs, &[], &target, &ExtractOptions::default());
    assert_eq!(summary.errors, 0);
    if common::is_root() {
        assert_same(&tree, &target);
    } else {
        assert_same_only(&tree, &target, What { owner: false, ..What::ALL });
    }
}

#[test]
fn paths_are_extracted_with_the_folders_above_them() {
    let (lab, tree, fs) = small();
    let target = lab.path("out");
    out(&fs, &["/a/c/linked", "a/b/two", "a/b/two"], &target, &ExtractOptions::default());
    assert_eq!(names(&target), ["a", "a/b", "a/b/two", "a/c", "a/c/linked"]);
    assert_eq!(fs::read(target.join("a/c/linked")).unwrap(), prose(1, 5000));
    let time = |root: &Path| root.join("a").metadata().unwrap().mtime_nsec();
    assert_eq!(time(&tree), time(&target), "the folder has its time, though two paths lie in it");
}

#[test]
fn a_path_that_is_not_there_is_an_error_and_the_rest_comes_out() {
    let (lab, _, fs) = small();
    let told = Told::default();
    let paths = [b"nothing".to_vec(), b"top".to_vec(), b"top/below".to_vec(), b"a/link/x".to_vec()];
    let summary = extract(&fs, &paths, &lab.path("out"), &ExtractOptions::default(), &told).unwrap();
    assert_eq!((summary.errors, summary.files), (2, 1), "{:?}", told.errors.lock().unwrap());
    assert_eq!(names(&lab.path("out")), ["top"]);
}

#[test]
fn components_are_stripped_off() {
    let (lab, _, fs) = small();
    let options = ExtractOptions { strip_components: 2, ..ExtractOptions::default() };
    out(&fs, &[], &lab.path("all"), &options);
    assert_eq!(names(&lab.path("all")), ["linked", "one", "three", "two"]);
    let ino = |name: &str| lab.path("all").join(name).metadata().unwrap().ino();
    assert_eq!(ino("one"), ino("linked"), "links survive it");
    out(&fs, &["a/b"], &lab.path("some"), &options);
    assert_eq!(names(&lab.path("some")), ["one", "two"]);
}

#[test]
fn a_filter_leaves_out_and_makes_no_folder_for_nothing() {
    let (lab, _, fs) = small();
    let filter = |path: &[u8], file_type: FileType| match file_type {
        FileType::Directory if path == b"a/c" => Pick::Skip,
        FileType::Directory => Pick::Search,
        _ if path.ends_with(b"o") => Pick::Take,
        _ => Pick::Skip,
    };
    out(&fs, &[], &lab.path("out"), &ExtractOptions { filter: &filter, ..ExtractOptions::default() });
    assert_eq!(names(&lab.path("out")), ["a", "a/b", "a/b/two"]);
    let nothing = |_: &[u8], file_type| if file_type == FileType::Directory { Pick::Search } else { Pick::Skip };
    out(&fs, &[], &lab.path("none"), &ExtractOptions { filter: &nothing, ..ExtractOptions::default() });
    assert_eq!(names(&lab.path("none")), [""; 0]);
}

#[test]
fn what_is_there_is_left_replaced_or_replaced_where_it_differs() {
    let (lab, tree, fs) = small();
    let target = lab.path("out");
    out(&fs, &[], &target, &ExtractOptions::default());
    let with = |overwrite| ExtractOptions { overwrite, ..ExtractOptions::default() };

    write(target.join("top"), b"mine");
    fs::remove_file(target.join("a/link")).unwrap();
    fs::remove_file(target.join("a/b/one")).unwrap();
    fs::create_dir(target.join("a/b/one")).unwrap();
    let told = Told::default();
    let never = extract(&fs, &[], &target, &with(Overwrite::Never), &told).unwrap();
    assert_eq!(fs::read(target.join("top")).unwrap(), b"mine");
    assert_eq!((never.files, never.errors), (1, 0), "only the link was missing");

    fs::remove_dir(target.join("a/b/one")).unwrap();
    let changed = out(&fs, &[], &target, &with(Overwrite::Changed));
    assert_eq!(fs::read(target.join("top")).unwrap(), b"top");
    assert_eq!(changed.files, 3, "the changed file, and the missing one with its link made again");
    assert_same(&tree.join("a"), &target.join("a"));

    let always = out(&fs, &[], &target, &with(Overwrite::Always));
    assert_eq!((always.files, always.skipped), (6, 0));
    assert_same(&tree.join("a"), &target.join("a"));
}

#[test]
fn a_link_in_the_target_is_never_followed() {
    let (lab, _, fs) = small();
    let outside = lab.path("outside");
    fs::create_dir(&outside).unwrap();
    write(outside.join("top"), b"outside");
    for overwrite in [Overwrite::Never, Overwrite::Changed, Overwrite::Always] {
        let target = lab.path(&format!("out-{overwrite:?}"));
        fs::create_dir(&target).unwrap();
        symlink(&outside, target.join("a")).unwrap();
        symlink(outside.join("top"), target.join("top")).unwrap();
        let told = Told::default();
        let options = ExtractOptions { overwrite, ..ExtractOptions::default() };
        let summary = extract(&fs, &[], &target, &options, &told).unwrap();
        assert_eq!(names(&outside), ["top"]);
        assert_eq!(fs::read(outside.join("top")).unwrap(), b"outside");
        if overwrite == Overwrite::Never {
            assert!(summary.errors > 0, "what should lie in the folder cannot be put there");
        } else {
            assert_eq!(summary.errors, 0, "{:?}", told.errors.lock().unwrap());
            assert!(target.join("a").symlink_metadata().unwrap().is_dir());
        }
    }
}

/// Replaces a directory by a link after the deepest file was extracted.
struct Swap {
    target: PathBuf,
    outside: PathBuf,
    errors: Mutex<u64>,
}

impl ExtractObserver for Swap {
    fn extracted(&self, path: &[u8]) {
        if path.ends_with(b"deepest") {
            fs::rename(self.target.join("d/d"), self.target.join("moved")).unwrap();
            symlink(&self.outside, self.target.join("d/d")).unwrap();
        }
    }

    fn warning(&self, _: &[u8], _: &str) {}

    fn error(&self, _: &[u8], _: &str) {
        *self.errors.lock().unwrap() += 1;
    }
}

#[test]
fn a_directory_that_becomes_a_link_while_it_is_extracted_is_not_followed_when_it_is_opened_again() {
    const LEVELS: usize = 200;
    let lab = Lab::new();
    let tree = lab.tree("deep");
    let mut at = tree.clone();
    for _ in 0..LEVELS {
        at.push("d");
        write(at.join("e"), b"after the directories below");
    }
    write(at.join("deepest"), b"x");
    let image = open(&packed(&lab, &tree, "deep.floe", &PackOptions::default()));
    let outside = lab.path("outside");
    // If the link were followed, all levels would be found outside.
    fs::create_dir_all(outside.join(at.strip_prefix(&tree).unwrap())).unwrap();
    let swap = Swap { target: lab.path("out"), outside: outside.clone(), errors: Mutex::default() };
    let summary = extract(&image, &[], &lab.path("out"), &ExtractOptions::default(), &swap).unwrap();
    assert!(summary.errors > 0 && *swap.errors.lock().unwrap() == summary.errors);
    assert!(names(&outside).iter().all(|name| !name.ends_with('e') && !name.ends_with("deepest")));
}

#[test]
fn many_names_in_many_directories_are_all_linked() {
    let lab = Lab::new();
    let tree = lab.tree("links");
    let mut at = tree.clone();
    for level in 0..100 {
        at.push("d");
        fs::create_dir(&at).unwrap();
        for n in 0..3 {
            let first = tree.join(format!("d/a{n}"));
            match level {
                0 => write(&first, [n as u8; 5]),
                _ => fs::hard_link(&first, at.join(format!("a{n}"))).unwrap(),
            }
        }
    }
    let image = open(&packed(&lab, &tree, "links.floe", &PackOptions::default()));
    for overwrite in [Overwrite::Never, Overwrite::Changed, Overwrite::Always] {
        let target = lab.path("out");
        out(&image, &[], &target, &ExtractOptions { overwrite, ..ExtractOptions::default() });
        assert_same(&tree.join("d"), &target.join("d"));
    }
}

/// Runs floe as a user other than root.
fn as_nobody(args: &[&str], paths: &[&Path]) -> common::Run {
    let mut command = std::process::Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", env!("CARGO_BIN_EXE_floe")]);
    command.args(args).args(paths);
    common::run(command)
}

/// A directory open to everybody with an image of `tree` in it, and a directory to extract into.
fn for_everybody(lab: &Lab, tree: &Path) -> (tempfile::TempDir, PathBuf, PathBuf) {
    let open = tempfile::tempdir().unwrap();
    fs::set_permissions(open.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let (image, target) = (open.path().join("x.floe"), open.path().join("out"));
    fs::copy(packed(lab, tree, "x.floe", &PackOptions::default()), &image).unwrap();
    fs::set_permissions(&image, fs::Permissions::from_mode(0o644)).unwrap();
    (open, image, target)
}

#[test]
fn who_is_not_root_extracts_what_root_owned_without_a_warning() {
    need_root!();
    if !common::has_program("setpriv") {
        return left_out("there is no setpriv");
    }
    let lab = Lab::new();
    let tree = lab.tree("roots");
    write(tree.join("dir/file"), b"some bytes");
    write(tree.join("setuid"), b"a program");
    fs::set_permissions(tree.join("setuid"), fs::Permissions::from_mode(0o4755)).unwrap();
    symlink("file", tree.join("dir/link")).unwrap();
    fs::hard_link(tree.join("setuid"), tree.join("dir/again")).unwrap();
    std::os::unix::fs::chown(tree.join("dir"), Some(7), Some(8)).unwrap();
    let trusted = xattrs::set(&tree.join("dir/file"), b"trusted.floe", b"x").is_ok();
    let (_open, image, target) = for_everybody(&lab, &tree);
    let done = as_nobody(&["extract", "--overwrite=always", "-C"], &[&target, &image]).exits(0);
    assert!(!done.stderr.contains("warning") && !done.stderr.contains("owner"), "{}", done.stderr);
    assert_same_only(&tree, &target, What { owner: false, mode: false, xattrs: false, ..What::ALL });
    let mode = |name: &str| target.join(name).metadata().unwrap().mode() & 0o7777;
    assert_eq!((mode("setuid"), mode("dir/file")), (0o755, 0o644), "set-id bits were meant for another owner");
    let done = as_nobody(&["extract", "-v", "--overwrite=always", "-C"], &[&target, &image]).exits(0);
    assert_eq!(done.stderr.matches("owners are not restored").count(), 1, "{}", done.stderr);
    assert_eq!(done.stderr.matches("'trusted.floe' are not restored").count(), usize::from(trusted), "{}", done.stderr);
    let done = as_nobody(&["extract", "--json", "--overwrite=always", "-C"], &[&target, &image]).exits(0);
    assert_eq!(done.stderr, "");
    assert!(done.out().contains("\"warnings\":0"), "{}", done.out());
}

#[test]
fn a_device_that_cannot_be_made_is_an_error_and_the_rest_comes_out() {
    need_root!();
    if !common::has_program("setpriv") {
        return left_out("there is no setpriv");
    }
    let lab = Lab::new();
    let tree = lab.tree("devices");
    write(tree.join("file"), b"some bytes");
    rustix::fs::mkfifoat(rustix::fs::CWD, tree.join("fifo"), rustix::fs::Mode::RUSR).unwrap();
    let (kind, device) = (rustix::fs::FileType::CharacterDevice, rustix::fs::makedev(1, 3));
    rustix::fs::mknodat(rustix::fs::CWD, tree.join("null"), kind, rustix::fs::Mode::RUSR, device).unwrap();
    let (_open, image, target) = for_everybody(&lab, &tree);
    as_nobody(&["extract", "-C"], &[&target, &image]).exits(3).says(&["error: null: cannot make the device"]);
    assert_eq!(names(&target), ["fifo", "file"]);
}

#[test]
fn a_target_that_holds_something_keeps_its_own_attributes() {
    let (lab, _, fs) = small();
    let target = lab.path("out");
    fs::create_dir(&target).unwrap();
    fs::set_permissions(&target, fs::Permissions::from_mode(0o711)).unwrap();
    write(target.join("other"), b"x");
    out(&fs, &[], &target, &ExtractOptions::default());
    assert_eq!(target.metadata().unwrap().mode() & 0o7777, 0o711);
}

#[test]
fn the_digest_sees_the_tree_and_not_the_layout() {
    let lab = Lab::new();
    let tree = lab.small_nasty_tree();
    let one = open(&packed(&lab, &tree, "one.floe", &PackOptions::default()));
    let params = Params { chunker: Chunker::Fixed(4096), superchunk_size: 1 << 20, ..Params::default() };
    let other = PackOptions { params, compression: Compression::Xz(1), jobs: 3, ..PackOptions::default() };
    let two = open(&packed(&lab, &tree, "two.floe", &other));
    let first = digest(&one, InodeId::ROOT).unwrap();
    assert_eq!(first, digest(&two, InodeId::ROOT).unwrap());
    // The same tree, extracted, has the same digest.
    if common::is_root() {
        out(&one, &[], &lab.path("out"), &ExtractOptions::default());
        let three = open(&packed(&lab, &lab.path("out"), "three.floe", &PackOptions::default()));
        assert_eq!(first, digest(&three, InodeId::ROOT).unwrap());
    }
}

#[test]
fn the_digest_sees_every_change() {
    let (lab, tree, fs) = small();
    let before = digest(&fs, InodeId::ROOT).unwrap();
    let again = |name: &str| {
        let fs = open(&packed(&lab, &tree, name, &PackOptions::default()));
        digest(&fs, InodeId::ROOT).unwrap()
    };
    assert_eq!(before, again("same.floe"));
    fs::set_permissions(tree.join("top"), fs::Permissions::from_mode(0o600)).unwrap();
    let mode = again("mode.floe");
    assert_ne!(before, mode);
    let time = tree.join("a/b/two").metadata().unwrap().modified().unwrap();
    write(tree.join("a/b/two"), b"twO");
    fs::File::options().write(true).open(tree.join("a/b/two")).unwrap().set_modified(time).unwrap();
    let byte = again("byte.floe");
    assert_ne!(mode, byte);
    let dir_time = tree.join("a/c").metadata().unwrap().modified().unwrap();
    let file_time = tree.join("a/c/linked").metadata().unwrap().modified().unwrap();
    fs::remove_file(tree.join("a/c/linked")).unwrap();
    write(tree.join("a/c/linked"), prose(1, 5000));
    fs::File::options().write(true).open(tree.join("a/c/linked")).unwrap().set_modified(file_time).unwrap();
    fs::File::open(tree.join("a/c")).unwrap().set_modified(dir_time).unwrap();
    assert_ne!(byte, again("link.floe"), "a copy is no hard link");
}

#[test]
fn the_image_that_is_extracted_is_never_replaced() {
    let lab = Lab::new();
    let tree = lab.tree("with-its-name");
    write(tree.join("a"), prose(1, 5000));
    write(tree.join("x.floe"), b"an older image, say");
    // It has the image's name, too, but is a directory.
    write(tree.join("y.floe/file"), b"x");
    write(tree.join("z"), noise(2, 70_000));
    let target = lab.path("target");
    fs::create_dir(&target).unwrap();
    let image = packed(&lab, &tree, "x.floe", &PackOptions::default());
    let bytes = fs::read(&image).unwrap();
    for overwrite in ["changed", "always"] {
        fs::write(target.join("x.floe"), &bytes).unwrap();
        fs::hard_link(target.join("x.floe"), target.join("y.floe")).unwrap();
        let done = common::floe!(
            "extract",
            &format!("--overwrite={overwrite}"),
            "-C",
            target.to_str().unwrap(),
            target.join("x.floe").to_str().unwrap()
        )
        .exits(3)
        .says(&["error: x.floe: ", "error: y.floe: ", "it would replace the image that is read"]);
        assert_eq!(done.stderr.matches("error: ").count(), 2, "{}", done.stderr);
        assert_eq!(fs::read(target.join("x.floe")).unwrap(), bytes);
        assert_eq!(fs::read(target.join("y.floe")).unwrap(), bytes);
        assert_eq!(names(&target), ["a", "x.floe", "y.floe", "z"]);
        fs::remove_dir_all(&target).unwrap();
        fs::create_dir(&target).unwrap();
    }
}

#[test]
fn nothing_is_extracted_into_the_thaw_log_of_the_image_or_over_its_lock() {
    let lab = Lab::new();
    let tree = lab.tree("with-its-names");
    write(tree.join("a"), prose(1, 5000));
    write(tree.join("x.floe.thaw/0000000000000000"), b"an older log, say");
    write(tree.join("x.floe.thaw/deeper/file"), b"x");
    write(tree.join("x.floe.lock"), b"x");
    let image = packed(&lab, &tree, "packed.floe", &PackOptions::default());
    let target = lab.path("target");
    let log = target.join("x.floe.thaw");
    fs::create_dir_all(&log).unwrap();
    fs::copy(&image, target.join("x.floe")).unwrap();
    fs::write(log.join("0000000000000000"), "precious").unwrap();
    fs::set_permissions(&log, fs::Permissions::from_mode(0o700)).unwrap();
    let lock = "host=north\nboot=b00t\npid=4711\n";
    fs::write(target.join("x.floe.lock"), lock).unwrap();
    for overwrite in ["never", "changed", "always"] {
        let overwrite = format!("--overwrite={overwrite}");
        let done = common::floe!("extract", &overwrite, "-C", &target, target.join("x.floe"));
        assert!(matches!(done.code, Some(0 | 3)), "{done:?}");
        assert_eq!(fs::read(log.join("0000000000000000")).unwrap(), b"precious");
        assert_eq!(names(&log), ["0000000000000000"]);
        assert_eq!(log.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(fs::read(target.join("x.floe.lock")).unwrap(), lock.as_bytes());
    }
    // The log directory itself is refused as a target.
    common::floe!("extract", "--overwrite=always", "-C", &log, target.join("x.floe")).exits(1).says(&["x.floe.thaw"]);
    assert_eq!(names(&log), ["0000000000000000"]);
}
