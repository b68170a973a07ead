//! The machine that was measured. Called by `run`.

use super::report::Machine;
use crate::fuse::mounts;
use std::path::Path;

/// Describes this machine, and the file system of `work` (absolute). A value that cannot be found is "unknown".
pub fn machine(work: &Path) -> Machine {
    let uname = rustix::system::uname();
    let text = |text: &std::ffi::CStr| text.to_string_lossy().into_owned();
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let info = rustix::system::sysinfo();
    Machine {
        processor: processor(&cpuinfo).unwrap_or_else(|| text(uname.machine())),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        memory: (info.totalram as u64).saturating_mul(u64::from(info.mem_unit)),
        kernel: format!("{} {}", text(uname.sysname()), text(uname.release())),
        work_filesystem: file_system(work).unwrap_or_else(|| "unknown".to_owned()),
    }
}

/// Returns the processor model that the kernel reports, if it reports one.
fn processor(cpuinfo: &str) -> Option<String> {
    let names = ["model name", "Model", "cpu model", "cpu"];
    let value = |name: &str| {
        let line = cpuinfo.lines().filter_map(|line| line.split_once(':')).find(|line| line.0.trim() == name)?;
        Some(line.1.split_whitespace().collect::<Vec<_>>().join(" ")).filter(|value| !value.is_empty())
    };
    names.into_iter().find_map(value)
}

/// Returns the type of the topmost mount that contains the path.
fn file_system(path: &Path) -> Option<String> {
    let all = mounts().ok()?;
    let longest = all.iter().filter(|mount| path.starts_with(&mount.point));
    // Of several mounts on one point, the last one is in use; it is also listed last.
    let mount = longest.max_by_key(|mount| mount.point.as_os_str().len())?;
    Some(mount.fs_type.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processor_is_what_the_kernel_calls_it() {
        let x86 = "processor\t: 0\nvendor_id\t: GenuineIntel\nmodel\t\t: 85\nmodel name\t: Xeon(R)  CPU @ 2.80GHz\n";
        assert_eq!(processor(x86).as_deref(), Some("Xeon(R) CPU @ 2.80GHz"));
        assert_eq!(processor("processor\t: 0\nCPU part\t: 0xd0c\n"), None);
        assert_eq!(
            processor("processor : 0\nmodel name :\nModel : Raspberry Pi 4\n").as_deref(),
            Some("Raspberry Pi 4")
        );
    }

    #[test]
    fn this_machine_is_known() {
        let machine = machine(Path::new("/proc"));
        assert!(machine.cores > 0 && machine.memory > 1 << 20 && machine.kernel.starts_with("Linux "), "{machine:?}");
        assert_eq!(machine.work_filesystem, "proc");
    }
}
