//! `mqtt://[user:password@]HOST[:PORT]/TOPIC`: messages of a broker, as lines.
//!
//! | key | |
//! |---|---|
//! | `qos` | 0 or 1; 1 where there is a `client-id`, else 0 |
//! | `client-id` | a name of its own, by which the broker keeps what comes while nobody is there (qos 1) |
//!
//! A message of QoS 1 is acknowledged when its records have been run, so that a broker that knows the client by name gives what
//! was not run to the next run, after Ctrl-C or a crash: some messages may then be run twice, and none is lost. It is not kept
//! until a snapshot has it: a run that goes on from an older snapshot has not what was run behind that.
//!
//! What a broker retains of a topic comes with each connection. It is run unless the last message of that topic was the same.
//!
//! | bound | |
//! |---|---|
//! | a message | [`MESSAGE_MAX`] bytes, else the connection breaks; of a line [`LINE_MAX`], longer ones are dropped and counted |
//! | messages that wait | [`waiting::MESSAGES`] and [`waiting::BYTES`]; then the broker waits |
//! | messages not acknowledged | as many as the broker sends at once: 65,535 at most |
//! | connections | one in [`Backoff`]'s time |

#[cfg(test)]
mod broker;
mod waiting;

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};
use rumqttc::{Client, Connection, ConnectionError, Event, MqttOptions, Packet, Publish, QoS};

use super::assembler::Assembler;
use super::bytes::{CHUNK, LINE_MAX, POLL};
use super::live::{CURSOR_MAX, Came, Origin};
use super::socket::Backoff;
use super::tell::Teller;
use super::uri::Uri;
use waiting::{Acks, Last, Message, Queue};

/// The most bytes of a message.
const MESSAGE_MAX: usize = 2 * LINE_MAX;
/// Requests to the broker that wait to be sent.
const REQUESTS: usize = 64;
/// How often the broker hears of us at the least.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// How long a broker is waited for at the end, that it hears what has been run.
const GOODBYE: Duration = Duration::from_millis(500);
const PORT: u16 = 1883;

/// A topic of a broker.
#[derive(Clone, Debug, PartialEq)]
pub struct Address {
    host: String,
    port: u16,
    /// A user and a password.
    login: Option<(String, String)>,
    pub topic: String,
    pub qos: QoS,
    /// Where the broker is to know it again.
    client_id: Option<String>,
}

impl Address {
    /// Reads a URI. A QoS that it does not say is `qos`, but 1 of a client with a name.
    ///
    /// # Errors
    ///
    /// It is none of a topic of a broker.
    pub fn parse(mut uri: Uri, qos: QoS) -> Result<Self> {
        const EXPECTED: &str = "[user:password@]HOST[:PORT]/TOPIC";
        let (authority, topic) = uri.what.split_once('/').unwrap_or((&uri.what, ""));
        let (login, place) = match authority.rsplit_once('@') {
            Some((login, place)) => (Some(login), place),
            None => (None, authority),
        };
        let login = login.map(|login| {
            let (user, password) = login.split_once(':').unwrap_or((login, ""));
            let decoded = |text| super::uri::decoded_secret(text, "in the user or the password");
            Ok::<_, anyhow::Error>((decoded(user)?, decoded(password)?))
        });
        let (host, port) = match place.rsplit_once(':').filter(|(_, port)| !port.ends_with(']')) {
            Some((host, port)) => (host, port.parse().ok()),
            None => (place, Some(PORT)),
        };
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host).to_owned();
        // A password with a / of its own is a topic here.
        let topic = match topic.contains('@') {
            true => super::uri::decoded_secret(topic, "in the topic")?,
            false => super::uri::decoded(topic)?,
        };
        let Some(port) = port.filter(|_| !host.is_empty() && !topic.is_empty()) else {
            anyhow::bail!("is not mqtt://{EXPECTED}");
        };
        let login = login.transpose()?;
        let said = uri.choose("qos", &[("0", QoS::AtMostOnce), ("1", QoS::AtLeastOnce)])?;
        let client_id = uri.take("client-id")?;
        uri.end()?;
        ensure!(client_id.as_deref() != Some(""), "has client-id=, expected a name");
        let qos = said.unwrap_or(if client_id.is_some() { QoS::AtLeastOnce } else { qos });
        Ok(Self { host, port, login, topic, qos, client_id })
    }

    /// What is read, without a login, for a snapshot: nothing where that is too long for one.
    pub fn what(&self) -> String {
        let what = format!("mqtt:{}:{}/{}", self.host, self.port, self.topic);
        if what.len() <= CURSOR_MAX { what } else { String::new() }
    }

    /// How to connect.
    pub fn options(&self) -> MqttOptions {
        let id = self.client_id.clone().unwrap_or_else(|| {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            format!("mcedge-{}-{:x}", std::process::id(), now.as_nanos())
        });
        let mut options = MqttOptions::new(id, &self.host, self.port);
        options.set_keep_alive(KEEP_ALIVE).set_max_packet_size(MESSAGE_MAX, MESSAGE_MAX);
        options.set_clean_session(self.client_id.is_none());
        if let Some((user, password)) = &self.login {
            options.set_credentials(user, password);
        }
        options
    }
}

/// Messages of a topic.
pub struct Messages {
    queue: Arc<Queue>,
    acks: Arc<Acks>,
    client: Client,
    assembler: Assembler,
    /// Bytes handed on.
    handed: u64,
    teller: Arc<Teller>,
}

impl Messages {
    /// Opens `mqtt://…`. The broker keeps a message until [`Acks::settle`] says that what was handed on of it has been run.
    ///
    /// # Errors
    ///
    /// The URI is none of a topic; there is no thread to be had. A broker that is not there is waited for.
    pub fn open(uri: Uri, teller: Teller) -> Result<(Self, Arc<Acks>)> {
        let address = Address::parse(uri, QoS::AtMostOnce)?;
        let topic = address.topic.rsplit('@').next().unwrap_or_default();
        ensure!(rumqttc::valid_filter(&address.topic), "has topic {topic:?}, which is none");
        let mut options = address.options();
        options.set_manual_acks(true);
        let (client, connection) = Client::new(options, REQUESTS);
        let (teller, queue) = (Arc::new(teller), Arc::new(Queue::default()));
        let acks = Arc::new(Acks::new(client.clone()));
        let subscription = Subscription {
            address,
            client: client.clone(),
            queue: Arc::clone(&queue),
            teller: Arc::clone(&teller),
            last: Last::default(),
            connected: 0,
        };
        thread::Builder::new().name("mqtt".into()).spawn(move || subscription.serve(connection))?;
        let assembler = Assembler::new(LINE_MAX);
        Ok((Self { queue, acks: Arc::clone(&acks), client, assembler, handed: 0, teller }, acks))
    }

    /// Takes the lines of a message: what is behind the last newline is one.
    fn take(&mut self, message: &Message, chunk: &mut Vec<u8>) {
        let start = chunk.len();
        if !message.payload.is_empty() {
            self.assembler.push_all(&message.payload, chunk);
        }
        if !message.payload.is_empty() && !message.payload.ends_with(b"\n") {
            self.assembler.push_all(b"\n", chunk);
        }
        let lines = &chunk[start..];
        // Lines with nothing on them may wait for the next record, which may wait for the broker.
        let text = lines.trim_ascii_end().len();
        let end = self.handed + if text == 0 { 0 } else { text as u64 + 1 };
        self.handed += lines.len() as u64;
        self.acks.add(message, end);
    }
}

impl Origin for Messages {
    fn read(&mut self, chunk: &mut Vec<u8>) -> io::Result<Came> {
        let mut wait = POLL;
        while chunk.len() < CHUNK
            && let Some(message) = self.queue.pop(wait)
        {
            self.take(&message, chunk);
            wait = Duration::ZERO;
        }
        // Of lines that nobody is to read, and what there was no room for.
        self.acks.send();
        self.teller.count(&mut self.assembler);
        Ok(match chunk.is_empty() {
            false => Came::Chunk(None),
            true if self.queue.is_over() => Came::Over,
            true => Came::Nothing,
        })
    }
}

impl Drop for Messages {
    /// Tells the broker what has been run, and says goodbye; waits no longer than [`GOODBYE`] for that.
    fn drop(&mut self) {
        self.queue.close();
        let (until, mut has_said) = (Instant::now() + GOODBYE, false);
        while !self.queue.is_over() && Instant::now() < until {
            has_said = has_said || (self.acks.send() && self.client.try_disconnect().is_ok());
            thread::sleep(Duration::from_millis(2));
        }
    }
}

/// What the thread needs that talks to the broker.
struct Subscription {
    address: Address,
    client: Client,
    queue: Arc<Queue>,
    teller: Arc<Teller>,
    last: Last,
    /// Connections so far.
    connected: u64,
}

impl Subscription {
    fn serve(mut self, mut connection: Connection) {
        let (mut backoff, mut is_told) = (Backoff::default(), false);
        while let Ok(event) = connection.recv() {
            match event {
                Ok(Event::Incoming(Packet::ConnAck(_))) => {
                    self.connected += 1;
                    if is_told {
                        self.teller.tell("is connected");
                    }
                    is_told = false;
                    backoff.succeed();
                    // The broker may have forgotten it.
                    let _ = self.client.try_subscribe(&self.address.topic, self.address.qos);
                }
                Ok(Event::Incoming(Packet::SubAck(ack))) => {
                    let is_refused = |code: &rumqttc::SubscribeReasonCode| {
                        matches!(code, rumqttc::SubscribeReasonCode::Failure)
                    };
                    if ack.return_codes.iter().any(is_refused) {
                        self.teller.tell("the broker refuses the subscription");
                    }
                }
                Ok(Event::Incoming(Packet::Publish(message))) => self.take(&message),
                Ok(_) => {}
                Err(_) if self.queue.is_closed() => return,
                Err(error) => {
                    if !is_told {
                        self.teller.tell(format_args!("{}; tries again", said(&error)));
                    }
                    is_told = true;
                    backoff.fail();
                    while !backoff.wait() && !self.queue.is_closed() {}
                    if self.queue.is_closed() {
                        return;
                    }
                }
            }
        }
    }

    /// Hands on a message. What the broker keeps of a topic comes with each subscription: it is new then if it was said while
    /// nobody was there.
    fn take(&mut self, message: &Publish) {
        let is_again = self.last.is_again(&message.topic, &message.payload, message.retain);
        let payload = if is_again { Vec::new() } else { message.payload.to_vec() };
        let id = (message.qos != QoS::AtMostOnce).then_some(message.pkid);
        if id.is_some() || !payload.is_empty() {
            self.queue.push(Message { payload, id, connection: self.connected });
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.queue.end();
    }
}

/// A broken connection in words.
pub fn said(error: &ConnectionError) -> String {
    match error {
        ConnectionError::Io(error) => error.to_string(),
        ConnectionError::ConnectionRefused(code) => format!("the broker refuses: {code:?}"),
        error => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_has_its_parts() {
        let parse = |text: &str| {
            let address = Address::parse(Uri::parse(text).unwrap().unwrap(), QoS::AtMostOnce);
            address.map_err(|error| error.to_string())
        };
        let plain = Address {
            host: "h".into(),
            port: 1883,
            login: None,
            topic: "a/b".into(),
            qos: QoS::AtMostOnce,
            client_id: None,
        };
        assert_eq!(parse("mqtt://h/a/b").unwrap(), plain);
        let port = parse("mqtt://[::1]:99/a/+/%23?qos=1").unwrap();
        let expected = Address {
            host: "::1".into(),
            port: 99,
            topic: "a/+/#".into(),
            qos: QoS::AtLeastOnce,
            ..plain.clone()
        };
        assert_eq!(port, expected);
        let named = parse("mqtt://me:p%40ss@h/a/b?client-id=pump").unwrap();
        let login = Some(("me".to_owned(), "p@ss".to_owned()));
        let (qos, client_id) = (QoS::AtLeastOnce, Some("pump".to_owned()));
        assert_eq!(named, Address { login, qos, client_id, ..plain.clone() });
        assert_eq!(named.what(), "mqtt:h:1883/a/b");
        assert!(!named.options().clean_session() && plain.options().clean_session());
        for wrong in ["mqtt://h", "mqtt://h/", "mqtt:///t", "mqtt://h:x/t", "mqtt://h:70000/t"] {
            assert!(parse(wrong).unwrap_err().starts_with("is not mqtt://"), "{wrong}");
        }
        assert_eq!(parse("mqtt://h/t?qos=2").unwrap_err(), "has qos=2, expected 0 or 1");
        assert!(parse("mqtt://h/t?keep=1").unwrap_err().contains("expected `qos`, `client-id`"));
    }
}
