//! The store over a disk that fails and loses power: a load gives a generation that was saved, whole.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use super::*;
use crate::snapshot::Draft;
use crate::snapshot::tests::of_version;

const FILE: &str = "dir/state";
/// Enough for any snapshot here.
const MOST: usize = 1 << 20;
const SECTOR: usize = 512;

/// A snapshot of several sectors that says which one it is.
fn snapshot(number: u8) -> Vec<u8> {
    let mut draft = Draft::default();
    draft.clear();
    draft.section("number");
    draft.bytes(&[number; 1700]);
    draft.finish().to_vec()
}

/// Which snapshot these bytes are.
fn number(bytes: &[u8]) -> u8 {
    let number = Snapshot::parse(bytes).unwrap().section("number").unwrap().bytes("number", 1).unwrap()[0];
    assert_eq!(bytes, snapshot(number), "a snapshot that nobody made");
    number
}

/// How an operation fails.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    /// Nothing is done.
    Refused,
    /// Part of it is: a write of so many bytes in place of all.
    Short(usize),
    /// All of it is, and fsync says that it may not be on the disk.
    Unsynced,
    /// The power goes before it.
    PowerBefore,
    /// The power goes when it is done.
    PowerAfter,
}

#[derive(Clone, Debug, Default)]
struct Inode {
    bytes: Vec<u8>,
    /// Whether fsync has brought it to the disk.
    is_synced: bool,
}

/// What has happened to the names since the directory was last brought to the disk.
#[derive(Clone, Debug)]
enum Change {
    Create(PathBuf, usize),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
}

#[derive(Clone, Debug, Default)]
struct State {
    inodes: Vec<Inode>,
    /// The names as a running system sees them, and as they are on the disk.
    names: BTreeMap<PathBuf, usize>,
    durable: BTreeMap<PathBuf, usize>,
    pending: Vec<Change>,
    operations: usize,
    /// The operation that fails, and how.
    fault: Option<(usize, Fault)>,
    is_off: bool,
}

/// A disk in memory.
#[derive(Clone, Default)]
struct Faulty(Rc<RefCell<State>>);

fn apply(names: &mut BTreeMap<PathBuf, usize>, change: &Change) {
    match change {
        Change::Create(path, inode) => drop(names.insert(path.clone(), *inode)),
        Change::Rename(from, to) => {
            if let Some(inode) = names.remove(from) {
                names.insert(to.clone(), inode);
            }
        }
        Change::Remove(path) => drop(names.remove(path)),
    }
}

impl State {
    fn change(&mut self, change: Change) {
        apply(&mut self.names, &change);
        self.pending.push(change);
    }

    /// Counts an operation; how it is to fail.
    fn fault(&mut self) -> io::Result<Option<Fault>> {
        let operation = self.operations;
        self.operations += 1;
        let fault = self.fault.filter(|(at, _)| *at == operation).map(|(_, fault)| fault);
        self.is_off |= fault == Some(Fault::PowerBefore);
        match fault {
            _ if self.is_off => Err(io::Error::other("no power")),
            Some(Fault::Refused) => Err(io::Error::other("refused")),
            fault => Ok(fault),
        }
    }

    /// An operation that was done as far as it could be.
    fn end(&mut self, fault: Option<Fault>) -> io::Result<()> {
        self.is_off |= fault == Some(Fault::PowerAfter);
        match fault {
            None => Ok(()),
            Some(_) => Err(io::Error::other("failed")),
        }
    }
}

impl Disk for Faulty {
    fn read(&self, path: &Path, most: usize) -> io::Result<Vec<u8>> {
        let state = self.0.borrow();
        let inode = state.names.get(path).ok_or(ErrorKind::NotFound)?;
        let bytes = &state.inodes[*inode].bytes;
        assert!(bytes.len() <= most);
        Ok(bytes.clone())
    }

    fn write(&mut self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.0.borrow_mut();
        let fault = state.fault()?;
        let length = if let Some(Fault::Short(length)) = fault { length } else { bytes.len() };
        let is_synced = matches!(fault, None | Some(Fault::PowerAfter));
        // To truncate a file and to make one are the same to those who read it by name.
        let inode = state.inodes.len();
        state.inodes.push(Inode { bytes: bytes[..length.min(bytes.len())].to_vec(), is_synced });
        state.change(Change::Create(path.to_owned(), inode));
        state.end(fault)
    }

    fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.0.borrow_mut();
        let fault = state.fault()?;
        if !state.names.contains_key(from) {
            return Err(ErrorKind::NotFound.into());
        }
        if matches!(fault, None | Some(Fault::PowerAfter)) {
            state.change(Change::Rename(from.to_owned(), to.to_owned()));
        }
        state.end(fault)
    }

    fn sync_directory(&mut self, _: &Path) -> io::Result<()> {
        let mut state = self.0.borrow_mut();
        let fault = state.fault()?;
        if matches!(fault, None | Some(Fault::PowerAfter)) {
            state.durable = state.names.clone();
            state.pending.clear();
        }
        state.end(fault)
    }

    fn remove(&mut self, path: &Path) -> io::Result<()> {
        let mut state = self.0.borrow_mut();
        let fault = state.fault()?;
        state.change(Change::Remove(path.to_owned()));
        state.end(fault)
    }
}

impl Faulty {
    fn store(&self) -> Store<Faulty> {
        Store::new(self.clone(), Path::new(FILE))
    }

    /// What may be on the disk when the power comes back: the names with the first so many of their changes, and what was
    /// not brought to the disk cut off anywhere or with any sector lost.
    fn after_power_cut(&self) -> Vec<Faulty> {
        let state = self.0.borrow();
        let mut worlds = Vec::new();
        for changes in 0..=state.pending.len() {
            let mut names = state.durable.clone();
            state.pending[..changes].iter().for_each(|change| apply(&mut names, change));
            let unsynced = names.values().copied().find(|&inode| !state.inodes[inode].is_synced);
            let damages = match unsynced {
                None => vec![state.inodes.clone()],
                Some(inode) => damages(&state.inodes[inode].bytes)
                    .map(|bytes| {
                        let mut inodes = state.inodes.clone();
                        inodes[inode] = Inode { bytes, is_synced: true };
                        inodes
                    })
                    .collect(),
            };
            for inodes in damages {
                let names = names.clone();
                let world = State { inodes, durable: names.clone(), names, ..State::default() };
                worlds.push(Faulty(Rc::new(RefCell::new(world))));
            }
        }
        worlds
    }

    fn file(&self, name: &str, edit: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.0.borrow_mut();
        let inode = state.names[Path::new(name)];
        edit(&mut state.inodes[inode].bytes);
    }

    fn load(&self) -> Option<u8> {
        self.store().load(MOST).unwrap().map(|loaded| number(&loaded.bytes))
    }
}

/// What a file that was not brought to the disk may be.
fn damages(bytes: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    let prefixes = (0..=bytes.len()).step_by(97).map(|length| bytes[..length].to_vec());
    let sectors = (0..bytes.len()).step_by(SECTOR).map(|start| {
        let mut torn = bytes.to_vec();
        let end = bytes.len().min(start + SECTOR);
        torn[start..end].fill(0);
        torn
    });
    prefixes.chain(sectors)
}

fn faults() -> Vec<Fault> {
    let short = [0, 1, 511, 512, 1500].map(Fault::Short);
    [&short[..], &[Fault::Refused, Fault::Unsynced, Fault::PowerBefore, Fault::PowerAfter]].concat()
}

/// A disk on which snapshots 1 to `saved` have been kept, by a store that goes on if the last generation stands.
fn disk(saved: u8, is_torn: bool) -> (Faulty, Store<Faulty>) {
    let disk = Faulty::default();
    let mut store = disk.store();
    (1..=saved).for_each(|number| store.save(&snapshot(number)).unwrap());
    if is_torn {
        disk.file(FILE, |bytes| bytes.truncate(700));
        store = disk.store();
        let loaded = store.load(MOST).unwrap().unwrap();
        assert_eq!(number(&loaded.bytes), saved - 1);
        let reason = loaded.instead_of.unwrap().to_string();
        assert!(reason.contains(FILE), "{reason}");
    }
    (disk, store)
}

/// Whatever fails at whichever operation, and the power with it: then, after the power, and after one more snapshot.
#[test]
fn a_load_gives_the_old_generation_or_the_new_one_whatever_fails() {
    for (saved, is_torn) in [(0, false), (1, false), (2, false), (5, false), (2, true), (5, true)] {
        let old = Some(saved - u8::from(is_torn)).filter(|&old| old > 0);
        let mut operation = 0;
        loop {
            let mut any = false;
            for fault in faults() {
                let (disk, mut store) = disk(saved, is_torn);
                let what = format!("{saved} {is_torn} operation {operation} {fault:?}");
                let before = disk.0.borrow().operations;
                disk.0.borrow_mut().fault = Some((before + operation, fault));
                let new = saved + 1;
                let kept = store.save(&snapshot(new));
                any |= disk.0.borrow().operations > before + operation;
                for world in disk.after_power_cut() {
                    let found = world.load();
                    assert!(found == old || found == Some(new), "{what}: {found:?}");
                    assert!(kept.is_err() || found == Some(new), "{what}: kept, and then {found:?}");
                    // It goes on from there.
                    let mut store = world.store();
                    store.load(MOST).unwrap();
                    store.save(&snapshot(new + 1)).unwrap();
                    assert_eq!(world.load(), Some(new + 1), "{what}");
                    assert_eq!(world.after_power_cut().len(), 1, "{what}: all is on the disk");
                }
                if disk.0.borrow().is_off {
                    continue;
                }
                let found = disk.load();
                assert!(found == old || found == Some(new), "{what}: {found:?}");
                // The same store tries again, and the power goes at any moment of it.
                for at in 0..5 {
                    let state = disk.0.borrow().clone();
                    let again = Faulty(Rc::new(RefCell::new(state)));
                    let mut store = Store { disk: again.clone(), path: FILE.into(), stands: store.stands };
                    let operations = again.0.borrow().operations;
                    again.0.borrow_mut().fault = Some((operations + at, Fault::PowerBefore));
                    let kept = store.save(&snapshot(new + 1));
                    for world in again.after_power_cut() {
                        let found = world.load();
                        let any = [old, Some(new), Some(new + 1)];
                        assert!(any.contains(&found), "{what}, again {at}: {found:?}");
                        assert!(kept.is_err() || found == Some(new + 1), "{what}, again {at}: {found:?}");
                    }
                }
            }
            if !any {
                break;
            }
            operation += 1;
        }
        assert!(operation >= 3, "a write, a rename and a sync at least, not {operation}");
    }
}

/// A disk that has lied to fsync.
#[test]
fn whatever_is_lost_of_the_last_generation_the_one_before_it_is_there() {
    let whole = snapshot(3);
    for damage in damages(&whole).filter(|damage| *damage != whole) {
        let (disk, _) = disk(3, false);
        disk.file(FILE, |bytes| *bytes = damage);
        assert_eq!(disk.load(), Some(2));
    }
}

#[test]
fn what_cannot_be_loaded_says_why() {
    assert!(Faulty::default().store().load(MOST).unwrap().is_none());
    let (disk, mut store) = disk(2, false);
    disk.file("dir/state", |bytes| bytes.truncate(100));
    disk.file("dir/state.previous", |bytes| bytes[0] = b'?');
    assert_eq!(
        store.load(MOST).unwrap_err().to_string(),
        "neither generation can be read: dir/state: is torn: it has 100 bytes, expected 1782; dir/state.previous: is no \
         snapshot of mcedge: it begins with \"?cedge\\x1a\\n\", expected \"mcedge\""
    );
    // A sound file of another version is not passed over for an older one.
    for name in ["dir/state", "dir/state.previous"] {
        let (disk, mut store) = self::disk(2, false);
        disk.file("dir/state", |bytes| bytes.truncate(100));
        disk.file(name, |bytes| *bytes = of_version(9, &snapshot(2)));
        let error = store.load(MOST).unwrap_err();
        assert_eq!(error.to_string(), name);
        let StoreError::Snapshot { source: SnapshotError::Version { found: 9, expected: 2 }, .. } = error
        else {
            panic!("{error:?}");
        };
    }
    // One whose version was damaged gives way to the one before it.
    let (disk, _) = self::disk(2, false);
    disk.file("dir/state", |bytes| bytes[8] = 9);
    assert_eq!(disk.load(), Some(1));
}

#[test]
fn real_files_are_read_within_their_bounds_and_replaced() {
    let folder = std::env::temp_dir().join(format!("mcedge-store-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let path = folder.join("state");
    let mut store = Store::new(Files, &path);
    (1..=3).for_each(|number| store.save(&snapshot(number)).unwrap());
    assert_eq!(number(&fs::read(&path).unwrap()), 3);
    assert_eq!(number(&fs::read(folder.join("state.previous")).unwrap()), 2);
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 2);
    assert_eq!(number(&store.load(MOST).unwrap().unwrap().bytes), 3);
    let error = store.load(1781).unwrap_err().to_string();
    assert!(error.contains("has 1782 bytes, expected 1781 at most; is it of another model?"), "{error}");
    // Somebody removes the last generation while the run goes on.
    fs::remove_file(&path).unwrap();
    store.save(&snapshot(4)).unwrap();
    assert_eq!(number(&fs::read(&path).unwrap()), 4);
    assert_eq!(number(&fs::read(folder.join("state.previous")).unwrap()), 2);
    // Nowhere to write.
    let mut nowhere = Store::new(Files, &folder.join("no").join("state"));
    assert!(nowhere.save(&snapshot(1)).unwrap_err().to_string().starts_with("cannot write"));
    assert!(nowhere.load(MOST).unwrap().is_none());
    fs::remove_dir_all(&folder).unwrap();
}
