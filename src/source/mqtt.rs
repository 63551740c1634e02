//! `mqtt://[user:password@]HOST[:PORT]/TOPIC`: messages of a broker, as lines.
//!
//! | key | |
//! |---|---|
//! | `qos` | 0 or 1; 1 where there is a `client-id`, else 0 |
//! | `client-id` | a name of its own, by which the broker keeps what comes while nobody is there (qos 1) |
//!
//! | bound | |
//! |---|---|
//! | a message | [`MESSAGE_MAX`] bytes, else the connection breaks; of a line [`LINE_MAX`], longer ones are dropped and counted |
//! | messages that wait | [`MESSAGES`]; then the broker waits |
//! | connections | one in [`Backoff`]'s time |

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};
use rumqttc::{Client, Connection, ConnectionError, Event, MqttOptions, Packet, QoS};

use super::assembler::Assembler;
use super::bytes::{CHUNK, LINE_MAX, POLL};
use super::live::{Came, Origin};
use super::socket::Backoff;
use super::tell::Teller;
use super::uri::Uri;

/// The most bytes of a message.
const MESSAGE_MAX: usize = 16 * LINE_MAX;
/// Messages that wait to be read.
const MESSAGES: usize = 256;
/// Requests to the broker that wait to be sent.
const REQUESTS: usize = 16;
/// How often the broker hears of us at the least.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
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
    messages: Receiver<Vec<u8>>,
    client: Client,
    closing: Arc<AtomicBool>,
    assembler: Assembler,
    teller: Arc<Teller>,
}

impl Messages {
    /// Opens `mqtt://…`.
    ///
    /// # Errors
    ///
    /// The URI is none of a topic; there is no thread to be had. A broker that is not there is waited for.
    pub fn open(uri: Uri, teller: Teller) -> Result<Self> {
        let address = Address::parse(uri, QoS::AtMostOnce)?;
        ensure!(
            rumqttc::valid_filter(&address.topic),
            "has topic {:?}, which is none",
            address.topic.rsplit('@').next()
        );
        let (client, connection) = Client::new(address.options(), REQUESTS);
        let (send, messages) = mpsc::sync_channel(MESSAGES);
        let (teller, closing) = (Arc::new(teller), Arc::new(AtomicBool::new(false)));
        let subscription = Subscription {
            address,
            client: client.clone(),
            send,
            teller: Arc::clone(&teller),
            closing: Arc::clone(&closing),
        };
        thread::Builder::new().name("mqtt".into()).spawn(move || subscription.serve(connection))?;
        Ok(Self { messages, client, closing, assembler: Assembler::new(LINE_MAX), teller })
    }

    /// Takes the lines of a message: what is behind the last newline is one.
    fn take(&mut self, message: &[u8], chunk: &mut Vec<u8>) {
        self.assembler.push_all(message, chunk);
        if !message.ends_with(b"\n") {
            self.assembler.push_all(b"\n", chunk);
        }
    }
}

impl Origin for Messages {
    fn read(&mut self, chunk: &mut Vec<u8>) -> io::Result<Came> {
        let message = match self.messages.recv_timeout(POLL) {
            Ok(message) => message,
            Err(RecvTimeoutError::Timeout) => return Ok(Came::Nothing),
            Err(RecvTimeoutError::Disconnected) => return Ok(Came::Over),
        };
        self.take(&message, chunk);
        while chunk.len() < CHUNK {
            let Ok(message) = self.messages.try_recv() else { break };
            self.take(&message, chunk);
        }
        self.teller.count(&mut self.assembler);
        Ok(if chunk.is_empty() { Came::Nothing } else { Came::Chunk(None) })
    }
}

impl Drop for Messages {
    fn drop(&mut self) {
        self.closing.store(true, Ordering::Relaxed);
        // The thread ends when it has said goodbye; nobody waits for that.
        let _ = self.client.try_disconnect();
    }
}

/// What the thread needs that talks to the broker.
struct Subscription {
    address: Address,
    client: Client,
    send: SyncSender<Vec<u8>>,
    teller: Arc<Teller>,
    closing: Arc<AtomicBool>,
}

impl Subscription {
    fn serve(self, mut connection: Connection) {
        let (mut backoff, mut connected, mut is_told) = (Backoff::default(), 0u64, false);
        while let Ok(event) = connection.recv() {
            if self.closing.load(Ordering::Relaxed) && event.is_err() {
                return;
            }
            match event {
                Ok(Event::Incoming(Packet::ConnAck(_))) => {
                    connected += 1;
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
                // What the broker has kept for who subscribes comes with each subscription: it is old then.
                Ok(Event::Incoming(Packet::Publish(message))) if message.retain && connected > 1 => {}
                Ok(Event::Incoming(Packet::Publish(message))) => {
                    let is_empty = message.payload.is_empty();
                    if !is_empty && self.send.send(message.payload.to_vec()).is_err() {
                        return;
                    }
                }
                Ok(_) => {}
                Err(error) => {
                    if !is_told {
                        self.teller.tell(format_args!("{}; tries again", said(&error)));
                    }
                    is_told = true;
                    backoff.fail();
                    while !backoff.wait() && !self.closing.load(Ordering::Relaxed) {}
                }
            }
        }
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
        assert!(!named.options().clean_session() && plain.options().clean_session());
        for wrong in ["mqtt://h", "mqtt://h/", "mqtt:///t", "mqtt://h:x/t", "mqtt://h:70000/t"] {
            assert!(parse(wrong).unwrap_err().starts_with("is not mqtt://"), "{wrong}");
        }
        assert_eq!(parse("mqtt://h/t?qos=2").unwrap_err(), "has qos=2, expected 0 or 1");
        assert!(parse("mqtt://h/t?keep=1").unwrap_err().contains("expected `qos`, `client-id`"));
    }
}
