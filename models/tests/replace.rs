//! A directory in the place of an older one.

#![allow(clippy::unwrap_used, reason = "a test panics when it fails")]

use std::fs;
use std::path::{Path, PathBuf};

use mcedge_models::{ReplaceError, replace_directory};

const NAMES: [&str; 2] = ["a", "b"];

/// An empty directory of that name.
fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("replace").join(name);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    folder
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn replace(path: &Path, files: &[(&str, &str)]) -> Result<(), ReplaceError> {
    let files: Vec<_> = files.iter().map(|&(name, text)| (name, text.as_bytes())).collect();
    replace_directory(path, &NAMES, &files)
}

#[test]
fn the_new_files_are_all_that_is_there() {
    let folder = folder("whole");
    let path = folder.join("deep/target");
    replace(&path, &[("a", "1"), ("b", "2")]).unwrap();
    replace(&path, &[("a", "3")]).unwrap();
    assert_eq!(fs::read(path.join("a")).unwrap(), b"3");
    assert_eq!((names(&path), names(&folder.join("deep"))), (vec!["a".into()], vec!["target".into()]));
    #[cfg(unix)]
    {
        let link = folder.join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        replace(&link, &[("b", "4")]).unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(names(&path), ["b"]);
    }
}

#[test]
fn what_may_not_be_replaced_stays() {
    let folder = folder("foreign");
    let check = |change: fn(&Path), expected: &str| {
        let path = folder.join("target");
        fs::create_dir_all(&path).unwrap();
        change(&path);
        let error = replace(&path, &[("a", "1")]).unwrap_err();
        assert!(matches!(&error, ReplaceError::Foreign { found, .. } if found == expected), "{error}");
        assert_eq!((names(&path), names(&folder)), (vec![expected.to_owned()], vec!["target".into()]));
        fs::remove_dir_all(&path).unwrap();
    };
    check(|path| fs::write(path.join("c"), "mine").unwrap(), "c");
    check(|path| fs::create_dir(path.join("a")).unwrap(), "a");
}

#[test]
fn a_failure_leaves_the_older_directory_and_nothing_beside_it() {
    let folder = folder("failure");
    let path = folder.join("target");
    replace(&path, &[("a", "1")]).unwrap();
    let error = replace(&path, &[("a", "2"), ("no/such", "3")]).unwrap_err();
    assert!(matches!(&error, ReplaceError::Io { path, .. } if path.ends_with("no/such")), "{error}");
    assert_eq!(fs::read(path.join("a")).unwrap(), b"1");
    assert_eq!(names(&folder), ["target"]);
}

#[test]
fn what_an_earlier_process_left_is_not_touched() {
    let folder = folder("left");
    let path = folder.join("target");
    replace(&path, &[("a", "1")]).unwrap();
    let left = ["new", "old"].map(|role| format!(".target.{role}-{}", std::process::id()));
    for left in &left {
        fs::create_dir(folder.join(left)).unwrap();
        fs::write(folder.join(left).join("b"), "left").unwrap();
    }
    replace(&path, &[("a", "2")]).unwrap();
    assert_eq!((names(&path), names(&folder)), (vec!["a".into()], [&left[..], &["target".into()]].concat()));
}

/// An older directory that nothing can be removed from (but by root, who may everything).
#[cfg(unix)]
#[test]
fn an_older_directory_that_cannot_be_removed_is_no_failure() {
    use std::os::unix::fs::PermissionsExt;

    let folder = folder("read-only");
    let path = folder.join("target");
    replace(&path, &[("a", "1")]).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o555)).unwrap();
    replace(&path, &[("a", "2")]).unwrap();
    assert_eq!(fs::read(path.join("a")).unwrap(), b"2");
    // So that the next run can.
    for left in names(&folder) {
        fs::set_permissions(folder.join(left), fs::Permissions::from_mode(0o755)).unwrap();
    }
}
