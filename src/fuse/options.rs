//! Mount options: those of every FUSE file system, and floe's own.
//!
//! A list is split at commas; `\,` is a comma inside a value, and `\\` a backslash. Later options win. An unknown
//! option is an error that names it; it is never ignored silently. Exceptions are options that belong to mount(8) and
//! fstab.

pub use super::attr::Disguise;
use crate::freeze::pressure::SMALLEST;
use crate::fs::Freezing;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

/// Time for which the kernel may cache answers: all changes come through the kernel. (136 years; much more would
/// overflow the jiffies of a 32-bit kernel.)
const FOR_EVER: Duration = Duration::from_secs(u32::MAX as u64);

/// Most event loops. Each costs a thread, and the kernel's own limit of background requests is lower.
const MAX_THREADS: usize = 256;

/// Default of the longest time between a change and its commit.
const COMMIT: Duration = Duration::from_secs(5);

/// Longest time between commits, in seconds. Nobody wants to lose more than an hour in a crash.
const MAX_COMMIT: u64 = 3600;

/// When a read changes the time of the last access, on a writable mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Atime {
    /// A read never changes the time (`noatime`).
    #[default]
    Never,
    /// A read changes the time of the last access if that is not after the last change, or is older than a day
    /// (`relatime`).
    Relative,
    /// Every read changes the time of the last access (`strictatime`, `atime`). Reads from the kernel's page cache send
    /// no request and change no time.
    Always,
}

/// Who may use the mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Access {
    /// Only the user who made the mount may use it.
    #[default]
    Owner,
    /// The user who made the mount may use it, and root (`allow_root`).
    OwnerAndRoot,
    /// Everybody may use the mount (`allow_other`).
    Everybody,
}

/// The options of a mount, as given after `-o`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountOptions {
    /// Whether `rw` was given: it is an error if the mount cannot be writable.
    pub writable: bool,
    /// Whether `ro` was given. With neither `ro` nor `rw`, the mount is writable if the image is.
    pub read_only: bool,
    /// Whether device nodes work (`dev`).
    pub dev: bool,
    /// Whether setuid and setgid bits and file capabilities work (`suid`).
    pub suid: bool,
    /// Whether programs may be run (`exec`).
    pub exec: bool,
    /// When a read changes the time of the last access: `noatime`, `relatime`, `strictatime` or `atime`, if one was
    /// given. A read-only mount only shows it in /proc/mounts.
    pub atime: Option<Atime>,
    /// Whether listing a directory never changes its time of the last access (`nodiratime`).
    pub nodiratime: bool,
    /// Whether each write(2) returns only when it is committed (`sync`).
    pub sync: bool,
    /// Whether `dirsync` was given.
    pub dirsync: bool,
    /// Who may use the mount (`allow_other`, `allow_root`).
    pub access: Access,
    /// Whether the kernel checks permissions. It is always true so far: there is no option to switch it off.
    pub default_permissions: bool,
    /// Whether a second process removes the mount if the daemon dies without unmounting (`auto_unmount`).
    pub auto_unmount: bool,
    /// Owners and permissions to show instead of those in the image (`uid=`, `gid=`, `umask=`, `fmask=`, `dmask=`).
    pub disguise: Disguise,
    /// The part of the file system's type after `fuse.` (`subtype=`).
    pub subtype: String,
    /// Source of the mount in /proc/mounts (`fsname=`); if absent, the image's path.
    pub fsname: Option<Vec<u8>>,
    /// Time for which the kernel may cache names, also names that do not exist (`entry_timeout=`).
    pub entry_timeout: Duration,
    /// Time for which the kernel may cache attributes (`attr_timeout=`).
    pub attr_timeout: Duration,
    /// Size of the working set in bytes (`cache=`).
    pub cache: Option<usize>,
    /// Number of event loops (`threads=`).
    pub threads: Option<usize>,
    /// Number of threads that inflate ahead (`readahead=`); 0 for none.
    pub readahead: Option<usize>,
    /// Whether small files are put into the page cache ahead of a reader that has listed them (`push`).
    pub push: bool,
    /// Offset in bytes in the file at which the image begins (`offset=`).
    pub offset: u64,
    /// Whether every subchunk is checked against its own identity when it is read (`verify`).
    pub verify: bool,
    /// Age at which a change is committed (`commit=`).
    pub commit: Duration,
    /// Directory for the thaw log, instead of one beside the image (`thaw=`).
    pub thaw: Option<PathBuf>,
    /// Whether the thaw log may be on a file system that does not survive a restart (`volatile`).
    pub volatile: bool,
    /// Bytes that the thaw log may take, instead of a part of the free space (`budget=`).
    pub budget: Option<u64>,
    /// Bytes of memory for changes that are not in the image yet, in addition to the working set (`memory=`).
    pub memory: Option<usize>,
    /// When written data is frozen (`freeze=`). With `off`, it is not frozen even at the end.
    pub freezing: Freezing,
}

impl Default for MountOptions {
    fn default() -> Self {
        MountOptions {
            writable: false,
            read_only: false,
            dev: false,
            suid: false,
            exec: true,
            atime: None,
            nodiratime: false,
            sync: false,
            dirsync: false,
            access: Access::Owner,
            default_permissions: true,
            auto_unmount: false,
            disguise: Disguise::default(),
            subtype: "floe".into(),
            fsname: None,
            entry_timeout: FOR_EVER,
            attr_timeout: FOR_EVER,
            cache: None,
            threads: None,
            readahead: None,
            push: false,
            offset: 0,
            verify: false,
            commit: COMMIT,
            thaw: None,
            volatile: false,
            budget: None,
            memory: None,
            freezing: Freezing::Auto,
        }
    }
}

/// Why a mount option is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    /// There is no option of this name.
    #[error("mount option '{0}' is unknown ('floe mount --help' lists the options)")]
    Unknown(String),
    /// The option lacks its value.
    #[error("mount option '{0}' needs a value ({0}=...)")]
    NeedsValue(String),
    /// The option has a value and takes none.
    #[error("mount option '{0}' takes no value")]
    NoValue(String),
    /// The option has a wrong value.
    #[error("mount option '{option}={value}' has a wrong value: expected {expected}")]
    Value {
        /// Name of the option.
        option: String,
        /// The value that was given.
        value: String,
        /// The values that the option takes.
        expected: &'static str,
    },
    /// This version of floe does not support the option.
    #[error("mount option '{0}' is not supported by this version of floe")]
    NotYet(String),
    /// A remount is asked for, but the options of a mount do not change.
    #[error("a mount of floe cannot be remounted: unmount it, and mount it with the other options")]
    Remount,
    /// Only read-only mounts have the option.
    #[error("mount option '{option}' is for read-only mounts: {reason} (mount with 'ro', or leave it out)")]
    ReadOnly {
        /// Name of the option.
        option: &'static str,
        /// Why a writable mount cannot have the option.
        reason: &'static str,
    },
}

/// Options that belong to mount(8) and fstab, or that are always in effect.
const IGNORED: &[&str] = &[
    "defaults",
    "auto",
    "noauto",
    "nofail",
    "_netdev",
    "user",
    "nouser",
    "users",
    "owner",
    "group",
    "lazytime",
    "nolazytime",
    "default_permissions",
    "silent",
    "loud",
];

impl MountOptions {
    /// Checks that a writable mount can have these options.
    ///
    /// # Errors
    /// Fails at the first option that a writable mount cannot have.
    pub fn fit_for_writing(&self) -> Result<(), OptionError> {
        const OWNERS: &str = "a writable mount shows owners and permissions as they are stored";
        const PUSH: &str = "pushed bytes could replace newer ones in the page cache";
        const DIRSYNC: &str =
            "changes of directories are not committed one by one; fsync of the directory commits them";
        let Disguise { uid, gid, fmask, dmask } = self.disguise;
        let wrong = [
            ("uid", uid.is_some(), OWNERS),
            ("gid", gid.is_some(), OWNERS),
            ("fmask", fmask.is_some(), OWNERS),
            ("dmask", dmask.is_some(), OWNERS),
            ("push", self.push, PUSH),
            ("dirsync", self.dirsync, DIRSYNC),
        ];
        // `umask=` sets both masks.
        let is_umask = fmask.is_some() && fmask == dmask;
        match wrong.into_iter().find(|(_, given, _)| *given) {
            Some(("fmask", _, reason)) if is_umask => Err(OptionError::ReadOnly { option: "umask", reason }),
            Some((option, _, reason)) => Err(OptionError::ReadOnly { option, reason }),
            None => Ok(()),
        }
    }

    /// Applies a list of options, as given after `-o`.
    ///
    /// # Errors
    /// Fails at the first option that is unknown, or whose value is wrong.
    pub fn take(&mut self, list: &OsStr) -> Result<(), OptionError> {
        for option in split(list.as_bytes()) {
            self.take_one(&option)?;
        }
        Ok(())
    }

    /// Applies a list of options as [`MountOptions::take`] does, but ignores unknown options (`-s` of mount(8)).
    ///
    /// # Errors
    /// Fails at the first option whose value is wrong.
    pub fn take_known(&mut self, list: &OsStr) -> Result<(), OptionError> {
        for option in split(list.as_bytes()) {
            match self.take_one(&option) {
                Ok(()) | Err(OptionError::Unknown(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn take_one(&mut self, option: &[u8]) -> Result<(), OptionError> {
        let mut halves = option.splitn(2, |byte| *byte == b'=');
        let (name, value) = (halves.next().unwrap_or_default(), halves.next());
        let name = String::from_utf8_lossy(name).into_owned();
        match value {
            _ if option.is_empty() || name.starts_with("x-") || name.starts_with("X-") || name == "comment" => Ok(()),
            Some(value) => self.take_value(&name, value),
            None => self.take_word(&name),
        }
    }

    fn take_word(&mut self, name: &str) -> Result<(), OptionError> {
        match name {
            "ro" => (self.writable, self.read_only) = (false, true),
            "rw" => (self.writable, self.read_only) = (true, false),
            "dev" => self.dev = true,
            "nodev" => self.dev = false,
            "suid" => self.suid = true,
            "nosuid" => self.suid = false,
            "exec" => self.exec = true,
            "noexec" => self.exec = false,
            "noatime" => self.atime = Some(Atime::Never),
            "relatime" => self.atime = Some(Atime::Relative),
            "atime" | "strictatime" | "norelatime" => self.atime = Some(Atime::Always),
            "diratime" => self.nodiratime = false,
            "nodiratime" => self.nodiratime = true,
            "remount" => return Err(OptionError::Remount),
            "sync" => self.sync = true,
            "async" => self.sync = false,
            "dirsync" => self.dirsync = true,
            "volatile" => self.volatile = true,
            "allow_other" => self.access = Access::Everybody,
            "allow_root" => self.access = Access::OwnerAndRoot,
            "auto_unmount" => self.auto_unmount = true,
            "verify" => self.verify = true,
            "push" => self.push = true,
            "snapshot" => return Err(OptionError::NotYet(name.into())),
            "commit" | "thaw" | "budget" | "memory" | "freeze" | "uid" | "gid" | "umask" | "fmask" | "dmask"
            | "subtype" | "fsname" | "entry_timeout" | "attr_timeout" | "cache" | "threads" | "readahead"
            | "offset" => {
                return Err(OptionError::NeedsValue(name.into()));
            }
            _ if IGNORED.contains(&name) => {}
            _ => return Err(OptionError::Unknown(name.into())),
        }
        Ok(())
    }

    fn take_value(&mut self, name: &str, bytes: &[u8]) -> Result<(), OptionError> {
        let text = String::from_utf8_lossy(bytes);
        let value: &str = &text;
        let wrong = |expected| OptionError::Value { option: name.into(), value: value.into(), expected };
        let mask = || u16::from_str_radix(value, 8).ok().filter(|m| *m <= 0o777).ok_or(wrong("octal permission bits"));
        let id = || value.parse().map_err(|_| wrong("a number"));
        let seconds = || seconds(value).ok_or(wrong("seconds, 0 or more"));
        let size = || parse_size(value).ok_or(wrong("a size such as 256M"));
        match name {
            "uid" => self.disguise.uid = Some(id()?),
            "gid" => self.disguise.gid = Some(id()?),
            "umask" => (self.disguise.fmask, self.disguise.dmask) = (Some(mask()?), Some(mask()?)),
            "fmask" => self.disguise.fmask = Some(mask()?),
            "dmask" => self.disguise.dmask = Some(mask()?),
            "fsname" if !bytes.is_empty() && !bytes.contains(&0) => self.fsname = Some(bytes.to_vec()),
            "fsname" => return Err(wrong("a name")),
            "subtype" if is_subtype(value) => self.subtype = value.into(),
            "subtype" => return Err(wrong("letters, digits, '-' and '_'")),
            "entry_timeout" => self.entry_timeout = seconds()?,
            "attr_timeout" => self.attr_timeout = seconds()?,
            "cache" => self.cache = Some(usize::try_from(size()?).map_err(|_| wrong("a size such as 256M"))?),
            "offset" => self.offset = size()?,
            "threads" => match value.parse() {
                Ok(threads) if (1..=MAX_THREADS).contains(&threads) => self.threads = Some(threads),
                _ => return Err(wrong("a number from 1 to 256")),
            },
            "readahead" => match value.parse() {
                Ok(threads) if threads <= MAX_THREADS => self.readahead = Some(threads),
                _ => return Err(wrong("a number of threads from 0 to 256")),
            },
            "commit" => match value.parse() {
                Ok(seconds) if (1..=MAX_COMMIT).contains(&seconds) => self.commit = Duration::from_secs(seconds),
                _ => return Err(wrong("a number of seconds from 1 to 3600")),
            },
            "thaw" if !bytes.is_empty() && !bytes.contains(&0) => self.thaw = Some(OsStr::from_bytes(bytes).into()),
            "thaw" => return Err(wrong("a directory")),
            "budget" => match size()? {
                bytes if bytes >= SMALLEST => self.budget = Some(bytes),
                _ => return Err(wrong("a size of at least 16M")),
            },
            "memory" => self.memory = Some(usize::try_from(size()?).map_err(|_| wrong("a size such as 512M"))?),
            "freeze" => match value {
                "auto" => self.freezing = Freezing::Auto,
                "off" => self.freezing = Freezing::Off,
                "eager" => self.freezing = Freezing::Eager,
                _ => return Err(wrong("'auto', 'off' or 'eager'")),
            },
            "snapshot" => return Err(OptionError::NotYet(name.into())),
            "ro" | "rw" | "dev" | "nodev" | "suid" | "nosuid" | "exec" | "noexec" | "noatime" | "relatime"
            | "norelatime" | "strictatime" | "atime" | "diratime" | "nodiratime" | "sync" | "async" | "dirsync"
            | "volatile" | "allow_other" | "allow_root" | "auto_unmount" | "verify" | "push" => {
                return Err(OptionError::NoValue(name.into()));
            }
            _ if IGNORED.contains(&name) => return Err(OptionError::NoValue(name.into())),
            _ => return Err(OptionError::Unknown(name.into())),
        }
        Ok(())
    }
}

fn is_subtype(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    !text.is_empty() && text.len() <= 64 && text.bytes().all(fits)
}

fn seconds(text: &str) -> Option<Duration> {
    let seconds: f64 = text.parse().ok()?;
    (seconds >= 0.0).then(|| Duration::try_from_secs_f64(seconds).map_or(FOR_EVER, |time| time.min(FOR_EVER)))
}

/// Parses a size in bytes, such as `4096`, `4K`, `4M`, `4MiB`, `1.5G` (powers of 1024) or `4MB` (powers of 1000).
fn parse_size(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = unit.to_ascii_lowercase();
    let (power, base) = match unit.as_bytes() {
        [] | [b'b'] => (0, 1024),
        [letter] | [letter, b'i', b'b'] => (b"kmgt".iter().position(|l| l == letter)? as u32 + 1, 1024),
        [letter, b'b'] => (b"kmgt".iter().position(|l| l == letter)? as u32 + 1, 1000),
        _ => return None,
    };
    let unit = u64::pow(base, power);
    match number.parse::<u64>() {
        Ok(whole) => whole.checked_mul(unit),
        // Only fractions are parsed here, and only if a float can express them.
        Err(_) => {
            let bytes = number.parse::<f64>().ok()? * unit as f64;
            (number.contains('.') && bytes < 9e15).then_some(bytes as u64)
        }
    }
}

/// Splits a list into its options, without their backslashes.
fn split(list: &[u8]) -> Vec<Vec<u8>> {
    let mut options = vec![Vec::new()];
    let mut rest = list.iter().copied().peekable();
    while let Some(byte) = rest.next() {
        let escaped = byte == b'\\' && matches!(rest.peek(), Some(b',' | b'\\'));
        match (byte, options.last_mut()) {
            (b',', _) => options.push(Vec::new()),
            (_, Some(option)) => option.push(if escaped { rest.next().unwrap_or(byte) } else { byte }),
            (_, None) => {}
        }
    }
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(list: &str) -> Result<MountOptions, OptionError> {
        let mut options = MountOptions::default();
        options.take(OsStr::new(list))?;
        Ok(options)
    }

    #[test]
    fn all_options_of_a_list_are_taken() {
        let options = take(
            "ro,dev,suid,noexec,noatime,allow_other,default_permissions,auto_unmount,uid=1000,gid=4294967294,umask=022,\
             fmask=0133,subtype=ice,fsname=a\\,b\\\\c,entry_timeout=1.5,attr_timeout=0,cache=64M,threads=3,readahead=0,\
             offset=4096,verify,push,nofail,x-systemd.automount,_netdev,nodiratime,sync,dirsync,commit=30,thaw=/fast/a\\,b,\
             volatile,budget=64M,memory=1G,freeze=off",
        )
        .unwrap();
        assert_eq!(
            options,
            MountOptions {
                writable: false,
                read_only: true,
                dev: true,
                suid: true,
                exec: false,
                atime: Some(Atime::Never),
                nodiratime: true,
                sync: true,
                dirsync: true,
                access: Access::Everybody,
                default_permissions: true,
                auto_unmount: true,
                disguise: Disguise { uid: Some(1000), gid: Some(4294967294), fmask: Some(0o133), dmask: Some(0o022) },
                subtype: "ice".into(),
                fsname: Some(b"a,b\\c".to_vec()),
                entry_timeout: Duration::from_millis(1500),
                attr_timeout: Duration::ZERO,
                cache: Some(64 << 20),
                threads: Some(3),
                readahead: Some(0),
                push: true,
                offset: 4096,
                verify: true,
                commit: Duration::from_secs(30),
                thaw: Some("/fast/a,b".into()),
                volatile: true,
                budget: Some(64 << 20),
                memory: Some(1 << 30),
                freezing: Freezing::Off,
            }
        );
    }

    #[test]
    fn later_options_win_and_empty_ones_say_nothing() {
        let options = take("rw,,ro,dev,nodev,allow_other,allow_root,").unwrap();
        assert!(!options.writable && !options.dev);
        assert_eq!(options.access, Access::OwnerAndRoot);
        assert_eq!(take("").unwrap(), MountOptions::default());
        let asked = |list| take(list).map(|options| (options.writable, options.read_only));
        assert_eq!(
            (asked("rw"), asked("rw,ro"), asked("dev")),
            (Ok((true, false)), Ok((false, true)), Ok((false, false)))
        );
        for (list, atime) in [
            ("noatime,relatime", Atime::Relative),
            ("relatime,strictatime", Atime::Always),
            ("atime", Atime::Always),
            ("strictatime,noatime", Atime::Never),
        ] {
            assert_eq!(take(list).unwrap().atime, Some(atime), "{list}");
        }
    }

    #[test]
    fn an_unknown_option_is_named() {
        assert_eq!(take("ro,bogus").unwrap_err(), OptionError::Unknown("bogus".into()));
        assert_eq!(
            take("bogus=1").unwrap_err().to_string(),
            "mount option 'bogus' is unknown ('floe mount --help' lists the options)"
        );
    }

    #[test]
    fn values_are_checked() {
        for list in [
            "uid=root",
            "umask=1000",
            "umask=9",
            "entry_timeout=-1",
            "entry_timeout=x",
            "cache=",
            "cache=1Q",
            "threads=0",
            "threads=257",
            "readahead=-1",
            "offset=1.2.3",
            "subtype=a/b",
            "subtype=",
            "fsname=",
            "commit=0",
            "commit=1.5",
            "commit=3601",
            "thaw=",
            "budget=15M",
            "budget=-",
            "memory=much",
            "freeze=maybe",
        ] {
            assert!(matches!(take(list), Err(OptionError::Value { .. })), "{list}");
        }
        assert_eq!(take("cache").unwrap_err(), OptionError::NeedsValue("cache".into()));
        assert_eq!(take("ro=1").unwrap_err(), OptionError::NoValue("ro".into()));
        assert_eq!(take("snapshot=old").unwrap_err(), OptionError::NotYet("snapshot".into()));
    }

    #[test]
    fn a_writable_mount_refuses_what_it_cannot_be() {
        for (list, option) in [
            ("uid=0", "uid"),
            ("gid=5", "gid"),
            ("umask=022", "umask"),
            ("fmask=022", "fmask"),
            ("fmask=022,dmask=077", "fmask"),
            ("dmask=0", "dmask"),
            ("push", "push"),
            ("dirsync", "dirsync"),
        ] {
            let error = take(list).unwrap().fit_for_writing().unwrap_err();
            assert!(matches!(error, OptionError::ReadOnly { option: named, .. } if named == option), "{list}: {error}");
            assert!(error.to_string().contains("'ro'"));
        }
        take("rw,commit=1,thaw=d,volatile,strictatime,sync,cache=1M,budget=16M,memory=1M")
            .unwrap()
            .fit_for_writing()
            .unwrap();
    }

    #[test]
    fn time_outs_end_at_for_ever() {
        assert_eq!(take("attr_timeout=1e300").unwrap().attr_timeout, FOR_EVER);
        assert_eq!(take("attr_timeout=inf").unwrap().attr_timeout, FOR_EVER);
    }

    #[test]
    fn sizes_are_read_as_people_write_them() {
        let sizes = [("0", 0), ("4096", 4096), ("4K", 4096), ("4MiB", 4 << 20), ("4MB", 4_000_000), ("1.5G", 3 << 29)];
        for (text, bytes) in sizes {
            assert_eq!(parse_size(text), Some(bytes), "{text}");
        }
        for text in ["", "K", "-1", "1 M", "99999999999999999999", "99999999999T", "1e3"] {
            assert_eq!(parse_size(text), None, "{text}");
        }
    }
}
