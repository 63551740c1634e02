//! Boards that have started over, or are others than before, and when that is known.

use super::*;

/// The stream `name` of two channels, of which the first has this scale.
fn describe(board: &mut Board, stream: u8, sequence: u32, name: &str, scale: f32) {
    let channels = [Channel { scale, ..CHANNELS[0] }, CHANNELS[1]];
    let channels = Channels::Listed(&channels);
    let descriptor = Descriptor { name, rate_hz: 100.0, element: Element::I16, channels };
    board.send_of(stream, sequence, u64::from(sequence) * 10_000, Body::Descriptor(descriptor));
}

/// The samples `[sequence, 0]` of another stream.
fn sample_of(board: &mut Board, stream: u8, sequence: u32) {
    let data = [sequence as u8, 0, 0, 0];
    let samples = Samples { span_us: 0, element: Element::I16, channels: 2, data: &data };
    board.send_of(stream, sequence, u64::from(sequence) * 10_000, Body::Samples(samples));
}

/// Boards at one name, one after the other.
struct Socket {
    folder: PathBuf,
}

impl Socket {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("mcedge-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        Socket { folder }
    }

    fn plug(&self, board: &Board) {
        let new = self.folder.join("new");
        symlink(&board.path, &new).unwrap();
        std::fs::rename(new, self.folder.join("board")).unwrap();
    }

    fn address(&self, query: &str) -> Address {
        format!("serial://{}{query}", self.folder.join("board").display()).parse().unwrap()
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Polls until a sample has come that is not the last one before.
fn first(link: &mut Link) -> String {
    let until = Instant::now() + DEADLINE;
    while Instant::now() < until {
        match link.poll().unwrap() {
            Some(Event::Sample(sample)) => return format!("{} {:?}", sample.sequence, sample.values),
            Some(_) => {}
            None => thread::park_timeout(Duration::from_millis(5)),
        }
    }
    panic!("no sample comes")
}

fn is_silent(link: &mut Link) -> bool {
    let until = Instant::now() + Duration::from_millis(200);
    while Instant::now() < until {
        if !link.would_wait() {
            return false;
        }
        thread::park_timeout(Duration::from_millis(5));
    }
    true
}

#[test]
fn samples_of_a_new_start_wait_for_their_own_descriptor() {
    let mut board = Board::new();
    let link = open(board.address(""));
    board.meet();
    let mut link = link.join().unwrap().unwrap();
    board.samples(0, 1);
    assert_eq!(first(&mut link), "0 [0.0, 0.0]");
    // It has another range now, and what said so was lost.
    board.boot = 2;
    board.samples(0, 2);
    board.samples(2, 1);
    board.wait_for(|record| record.body == Body::Describe);
    assert!(is_silent(&mut link), "nobody knows yet what they are");
    describe(&mut board, 0, 3, "imu", 8.0);
    board.samples(3, 1);
    board.ended(4);
    let expected = [
        "the board has started over",
        "Restarted None",
        "0 0 [0.0, 0.0]",
        "1 10000 [8.0, -2.0]",
        "2 20000 [16.0, -4.0]",
        "3 30000 [24.0, -6.0]",
    ];
    assert_eq!(events(&mut link), expected);
    assert_eq!((link.counters().samples, link.counters().missing), (5, 0));
}

#[test]
fn another_board_on_the_port_is_known_before_its_samples_are_given() {
    let socket = Socket::new("another");
    let mut board = Board::new();
    socket.plug(&board);
    let link = open(socket.address(""));
    board.meet();
    let mut link = link.join().unwrap().unwrap();
    board.samples(0, 1);
    assert_eq!(first(&mut link), "0 [0.0, 0.0]");
    board = Board::new();
    socket.plug(&board);
    // It sends by itself, its numbers go on by chance, and it has the same boot.
    board.wait_for(|record| record.body == Body::Describe);
    (1..4).for_each(|sample| board.samples(sample, 1));
    let channels = [Channel { name: "t", unit: "C", scale: 1.0 }, CHANNELS[1]];
    let channels = Channels::Listed(&channels);
    let descriptor = Descriptor { name: "imu", rate_hz: 100.0, element: Element::I16, channels };
    board.send(4, 40_000, Body::Descriptor(descriptor));
    let events = events(&mut link);
    let expected = "the board now sends imu (0): t [C], y [g], expected imu (0): x [g], y [g] as before";
    assert_eq!(events.last().unwrap(), expected);
    assert!(!events.iter().any(|event| event.contains("0000 [")), "{events:?}");
}

#[test]
fn a_board_that_is_back_and_never_says_what_it_is_goes_on_as_before() {
    let socket = Socket::new("mute");
    let mut board = Board::new();
    socket.plug(&board);
    let link = open(socket.address(""));
    board.meet();
    let mut link = link.join().unwrap().unwrap();
    board.samples(0, 1);
    assert_eq!(first(&mut link), "0 [0.0, 0.0]");
    board = Board::new();
    socket.plug(&board);
    board.wait_for(|record| record.body == Body::Describe);
    board.samples(1, 1);
    assert_eq!(first(&mut link), "1 [0.5, -2.0]");
    // Another start is another thing.
    board.boot = 9;
    board.samples(2, 1);
    board.ended(3);
    let left_out = "1 samples are left out: the board has not said what they are";
    let events = events(&mut link);
    assert!(events.contains(&left_out.to_string()), "{events:?}");
    assert_eq!((link.counters().samples, link.counters().missing), (2, 3));
}

#[test]
fn a_stream_that_has_another_number_is_followed() {
    for query in ["", "?stream=imu"] {
        let socket = Socket::new("renumbered");
        let mut board = Board::new();
        socket.plug(&board);
        let link = open(socket.address(query));
        board.meet();
        let mut link = link.join().unwrap().unwrap();
        board.samples(0, 1);
        assert_eq!(first(&mut link), "0 [0.0, 0.0]");
        // On the same line, and then by another.
        board.boot = 2;
        describe(&mut board, 4, 0, "imu", 1.0);
        board.wait_for(|record| record.body == Body::Start);
        sample_of(&mut board, 4, 1);
        assert_eq!(first(&mut link), "1 [1.0, 0.0]", "{query}");
        board = Board::new();
        socket.plug(&board);
        board.wait_for(|record| record.body == Body::Describe);
        describe(&mut board, 6, 2, "imu", 2.0);
        board.wait_for(|record| record.body == Body::Start);
        sample_of(&mut board, 6, 2);
        assert_eq!(first(&mut link), "2 [4.0, 0.0]", "{query}");
        link.responder().predict(2, 0, None, &[1.0]);
        board.wait_for(|record| matches!(record.body, Body::Prediction(_)) && record.stream == 6);
    }
}

#[test]
fn a_chosen_number_that_is_gone_is_told() {
    let socket = Socket::new("gone");
    let mut board = Board::new();
    socket.plug(&board);
    let link = open(socket.address("?stream=0"));
    board.meet();
    let mut link = link.join().unwrap().unwrap();
    board.samples(0, 1);
    assert_eq!(first(&mut link), "0 [0.0, 0.0]");
    board = Board::new();
    socket.plug(&board);
    board.wait_for(|record| record.body == Body::Describe);
    describe(&mut board, 4, 0, "imu", 1.0);
    let until = Instant::now() + DEADLINE;
    let mut notices = Vec::new();
    while !notices.iter().any(|notice: &String| notice.contains("none says what the stream is")) {
        assert!(Instant::now() < until, "{notices:?}");
        if let Some(Event::Notice(notice)) = link.poll().unwrap() {
            notices.push(notice);
        }
        thread::park_timeout(Duration::from_millis(5));
    }
}
