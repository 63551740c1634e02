use super::*;

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
    assert!(error(&format!("journal://?since={}", "x".repeat(2000)), "").contains("1024 bytes at most"));
}
