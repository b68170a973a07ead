//! One of floe's settings: the options of `floe pack` that it stands for, and the examination of an image packed with
//! it.
//!
//! Packing runs as a child process, so that its processor time and memory are measured separately; then the image is
//! opened through the library. Called by `run`.

use super::command::{CommandError, Limits, Ran, run_watched};
use super::mounts::Mounted;
use super::report::{Parts, Size};
use crate::format::codec::Compression;
use crate::format::params::Params;
use crate::format::profile::Profile;
use crate::meta::{Image, ImageOptions, MetaError};
use crate::storage::{Access, FileStorage, StorageError};
use serde::Deserialize;
use std::io;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use thiserror::Error;

/// Exit status of `floe pack` if something could not be read, or not as it is.
const FINDINGS: i32 = 3;

/// A setting of floe that is measured.
#[derive(Debug, Clone, PartialEq)]
pub struct Setting {
    /// Name of the setting as requested.
    pub name: String,
    /// Options for `floe pack`.
    pub options: Vec<String>,
    /// Parameters of the resulting image.
    pub params: Params,
    /// Codec and level of the resulting image.
    pub compression: Compression,
    /// Rough relative duration of packing, for the estimate of the time left.
    pub weight: f64,
}

impl Setting {
    /// Parses the name of a profile, or a codec as in `-C`.
    ///
    /// # Errors
    /// Returns a message that lists the accepted names.
    pub fn parse(name: &str) -> Result<Setting, String> {
        let (option, params, compression) = match (name.parse::<Profile>(), name.parse::<Compression>()) {
            (Ok(profile), _) => ("--profile", profile.params(), profile.compression()),
            (_, Ok(compression)) => ("-C", with_codec(Profile::default().params(), compression), compression),
            _ => {
                let known: Vec<&str> = Profile::ALL.iter().map(|profile| profile.name()).collect();
                return Err(format!(
                    "'{name}' is neither a profile ({}) nor a codec (none, zstd:1 to zstd:22, xz:0 to xz:9)",
                    known.join(", ")
                ));
            }
        };
        let options = vec![option.to_owned(), name.to_owned()];
        Ok(Setting { name: name.to_owned(), options, params, compression, weight: weight(compression) })
    }
}

/// Changes a profile's parameters as `floe pack -C` does.
fn with_codec(own: Params, compression: Compression) -> Params {
    let chosen = Params { codec: compression.codec_number(), level: compression.level(), ..own };
    Params { profile: if chosen == own { own.profile } else { 0 }, ..chosen }
}

/// Returns the rough relative duration of packing with a codec.
fn weight(compression: Compression) -> f64 {
    match compression {
        Compression::Zstd(level) => 1.0 + f64::from(level) * f64::from(level) / 20.0,
        Compression::Xz(level) => 15.0 + 2.0 * f64::from(level),
        _ => 0.5,
    }
}

/// Why an image that was just packed cannot be examined.
#[derive(Debug, Error)]
pub enum LookError {
    /// The image's file cannot be read.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The image's tables cannot be read.
    #[error(transparent)]
    Meta(#[from] MetaError),
    /// The sizes of the image's parts exceed its own size.
    #[error("the parts of the image add up to {parts} bytes, but the image has {total} bytes")]
    Parts {
        /// Sum of the parts in bytes.
        parts: u64,
        /// Length of the image in bytes.
        total: u64,
    },
}

/// The final message of `floe pack --json`.
#[derive(Debug, Clone, Deserialize)]
pub struct Summary {
    /// Raw bytes that deduplication saved.
    pub shared_bytes: u64,
    /// Number of files that could not be read, or not as they are.
    pub warnings: u64,
}

/// Result of packing an image.
#[derive(Debug)]
pub struct Packed {
    /// Cost of packing.
    pub ran: Ran,
    /// Final message of `floe pack`.
    pub summary: Summary,
    /// The first file that could not be read, or not as it is.
    pub finding: Option<String>,
}

/// The program that packs and mounts: this one.
#[derive(Debug, Clone, Copy)]
pub struct Floe<'a> {
    /// Path of the program.
    pub program: &'a Path,
    /// Number of threads that pack.
    pub jobs: usize,
}

impl Floe<'_> {
    /// Returns the options of packing, for display.
    pub fn options(&self, setting: &Setting) -> String {
        format!("pack {} -j {} DIR IMAGE", setting.options.join(" "), self.jobs)
    }

    /// Packs `source` into `image`, with temporary files next to it; `watch` receives the fraction of the bytes done.
    ///
    /// # Errors
    /// Fails if the program fails, is interrupted, or prints no summary.
    pub fn pack(
        &self,
        setting: &Setting,
        source: &Path,
        image: &Path,
        limits: &Limits<'_>,
        watch: &(dyn Fn(f64) + Sync),
    ) -> Result<Packed, CommandError> {
        let mut command = Command::new(self.program);
        command.args(["pack", "--json"]).args(&setting.options).args(["-j", &self.jobs.to_string()]);
        command.arg("--").arg(source).arg(image);
        if let Some(beside) = image.parent() {
            command.env("TMPDIR", beside);
        }
        let mut summary = None;
        let ran = run_watched(&mut command, limits, &[0, FINDINGS], &mut |line| match serde_json::from_slice(line) {
            Ok(Line::Status { percent_done: Some(share) }) => watch(share),
            Ok(Line::Summary(done)) => summary = Some(done),
            _ => {}
        });
        let ran = ran.map_err(told)?;
        let program = self.program.to_string_lossy().into_owned();
        let silent = || CommandError::Start { program, source: io::Error::other("it did not say what it packed") };
        let finding = said(&ran.message, "error").map(|said| match said.item.as_str() {
            "" => said.message,
            item => format!("{item}: {}", said.message),
        });
        Ok(Packed { summary: summary.ok_or_else(silent)?, finding, ran })
    }

    /// Mounts an image, read-only.
    ///
    /// # Errors
    /// Fails if it cannot be mounted.
    pub fn mount(&self, image: &Path, point: &Path, limits: &Limits<'_>) -> Result<Mounted, CommandError> {
        let mut command = Command::new(self.program);
        command.args(["mount", "-f", "-o", "ro", "--"]).arg(image).arg(point);
        Mounted::serve(&mut command, point, limits)
    }
}

#[derive(Deserialize)]
#[serde(tag = "message_type", rename_all = "snake_case")]
enum Line {
    Status { percent_done: Option<f64> },
    Summary(Summary),
}

#[derive(Deserialize)]
struct Said {
    #[serde(default)]
    item: String,
    message: String,
}

/// Returns the first JSON line of a kind in a program's last output.
fn said(words: &str, kind: &str) -> Option<Said> {
    let begin = words.find(&format!("{{\"message_type\":\"{kind}\""))?;
    serde_json::Deserializer::from_str(&words[begin..]).into_iter().next()?.ok()
}

/// Changes a failure of floe to one with the message that a user would see.
fn told(error: CommandError) -> CommandError {
    match error {
        CommandError::Failed { program, status, message } => {
            let message = said(&message, "exit_error").map_or(message, |said| said.message);
            CommandError::Failed { program, status, message }
        }
        other => other,
    }
}

/// Opens an image.
///
/// # Errors
/// Fails if it cannot be opened.
pub fn open(image: &Path) -> Result<Arc<Image>, LookError> {
    let storage = Arc::new(FileStorage::open(image, Access::ReadOnly)?);
    Ok(Arc::new(Image::open(storage, ImageOptions::default())?))
}

/// Returns the sizes of an image of `total` bytes that was made of `bytes` bytes.
///
/// # Errors
/// Fails if its tables cannot be read.
pub fn size(image: &Image, total: u64, bytes: u64) -> Result<Size, LookError> {
    let usage = image.usage()?;
    let named = [usage.data, usage.other_metadata(), usage.identities, usage.clear_lists];
    let parts = named.iter().sum();
    let other = total.checked_sub(parts).ok_or(LookError::Parts { parts, total })?;
    let [data, metadata, identities, clear_lists] = named;
    Ok(Size {
        total,
        ratio: bytes as f64 / total.max(1) as f64,
        range: None,
        parts: Some(Parts { data, metadata, identities, clear_lists, other }),
        saved: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_is_a_profile_or_a_codec() {
        let setting = Setting::parse("small").unwrap();
        assert_eq!(setting.options, ["--profile", "small"]);
        let codec = Setting::parse("zstd:15").unwrap();
        assert_eq!(codec.options, ["-C", "zstd:15"]);
        let floe = Floe { program: Path::new("floe"), jobs: 2 };
        assert_eq!(floe.options(&codec), "pack -C zstd:15 -j 2 DIR IMAGE");
        let error = Setting::parse("tiny").unwrap_err();
        assert!(error.contains("'tiny'") && error.contains("smallest") && error.contains("zstd:22"), "{error}");
        let weights: Vec<f64> = Profile::ALL.iter().map(|p| Setting::parse(p.name()).unwrap().weight).collect();
        assert!(weights.is_sorted(), "{weights:?}");
    }

    #[test]
    fn the_words_of_floe_are_taken_out_of_its_json() {
        let words = "warning; {\"message_type\":\"error\",\"item\":\"a; b\",\"message\":\"denied\"}; \
                     {\"message_type\":\"exit_error\",\"code\":1,\"message\":\"no space\"}";
        assert_eq!(said(words, "exit_error").unwrap().message, "no space");
        let finding = said(words, "error").unwrap();
        assert_eq!((finding.item.as_str(), finding.message.as_str()), ("a; b", "denied"));
        assert!(said("nothing", "error").is_none());
    }
}
