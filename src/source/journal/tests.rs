use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::*;

/// A journal of a shell script in place of journalctl.
fn scripted(name: &str, script: &str) -> Journal {
    let folder = std::env::temp_dir().join(format!("mcedge-journal-{name}-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let program = folder.join("journalctl");
    fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let uri = Uri::parse("journal://").unwrap().unwrap();
    Journal::ask(program.to_str().unwrap(), uri, None, Teller::new("test")).unwrap().0
}

/// What comes of it: lines so far, and why nothing more does.
fn read_until_it_fails(journal: &mut Journal) -> (String, String) {
    let (mut lines, mut chunk, start) = (String::new(), Vec::new(), Instant::now());
    loop {
        assert!(start.elapsed() < Duration::from_secs(60), "{lines}");
        chunk.clear();
        match journal.read(&mut chunk) {
            Ok(_) => lines += std::str::from_utf8(&chunk).unwrap(),
            Err(error) => return (lines, error.to_string()),
        }
    }
}

#[test]
fn what_journalctl_cannot_answer_ends_the_input_and_says_nothing_to_a_terminal() {
    let mut journal = scripted("fails", r"printf '\033[31mbad  since\n%s' $(seq 999) >&2; exit 3");
    let (lines, error) = read_until_it_fails(&mut journal);
    assert_eq!(lines, "");
    let begins = "journalctl has failed: exit status: 3: \\u{1b}[31mbad since 1";
    assert!(error.starts_with(begins) && error.len() < 1000, "{error}");
    assert!(!error.contains(char::is_control));
}

#[test]
fn one_that_fails_behind_an_entry_is_started_again() {
    let script = r#"echo '{"MESSAGE":"one","__CURSOR":"s=1"}'; exit 1"#;
    let (mut journal, mut chunk, start) = (scripted("again", script), Vec::new(), Instant::now());
    while chunk.iter().filter(|&&byte| byte == b'\n').count() < 2 {
        assert!(start.elapsed() < Duration::from_secs(60));
        let mut more = Vec::new();
        journal.read(&mut more).unwrap();
        chunk.extend(more);
    }
}

#[test]
fn who_holds_standard_error_is_not_waited_for() {
    // The child of the script ends by itself, long after that.
    let mut journal = scripted("holds", "echo 'no such unit' >&2; sleep 45 >/dev/null & exit 1");
    let start = Instant::now();
    let (_, error) = read_until_it_fails(&mut journal);
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
    assert_eq!(error, "journalctl has failed: exit status: 1: no such unit");
}

#[test]
fn ctrl_c_at_a_terminal_is_not_for_journalctl() {
    let journal = scripted("group", "exec sleep 60");
    let group = |process: u32| {
        let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
        // Behind the name: state, parent, group.
        stat.rsplit_once(')').unwrap().1.split_whitespace().nth(2).unwrap().to_owned()
    };
    let child = journal.running.as_ref().unwrap().child.id();
    assert_ne!(group(child), group(std::process::id()));
}

#[test]
fn a_place_in_the_journal_is_what_was_written() {
    for from in [From::Since("@12.5".into()), From::Since("yesterday".into()), From::After("s=1;i=2".into())]
    {
        assert_eq!(From::parse(&from.cursor()), Some(from));
    }
    for other in ["", "tail:1:2", "journal"] {
        assert_eq!(From::parse(other), None);
    }
    assert_eq!(From::After("s=1".into()).flag(), "--after-cursor=s=1");
    assert!(From::Since(now()).flag().starts_with("--since=@"));
}

#[test]
fn what_cannot_be_asked_of_the_journal_says_why() {
    let error = |text: &str, cursor: &str| {
        let uri = Uri::parse(text).unwrap().unwrap();
        let place = Place { cursor: cursor.into(), ..Place::default() };
        Journal::open(uri, Some(&place), Teller::new("test")).err().unwrap().to_string()
    };
    assert_eq!(error("journal://ssh", ""), "has \"ssh\" behind ://, expected journal://?unit=NAME");
    assert!(error("journal://?until=now", "").contains("expected `unit`, `identifier`, `priority`, `since`"));
    assert!(error("journal://", "tail:1:2").contains("the snapshot is of another input"));
    let other = error("journal://?unit=b&unit=c", "journal:s=1;i=2\n--unit=a");
    assert!(other.starts_with("asks for \"--unit=b --unit=c\", the snapshot is of \"--unit=a\""), "{other}");
    let all = error("journal://?unit=b", "journal:s=1;i=2");
    assert!(all.contains("the snapshot is of \"all entries\""), "{all}");
    assert!(error(&format!("journal://?since={}", "x".repeat(2000)), "").contains("1024 bytes at most"));
}
