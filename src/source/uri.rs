//! URIs of inputs and outputs: `scheme://what?key=value&key=value`.

use anyhow::{Result, anyhow, bail, ensure};

/// The most bytes of a URI.
const MOST_BYTES: usize = 4096;

/// Schemes whose URIs have no login, in which an @ is an @.
const WITHOUT_LOGIN: [&str; 6] = ["file", "serial", "i2c", "tail", "journal", "unix"];

/// A URI as it is told to a person: without a user and a password, also where they are not written as they should be.
///
/// What is between `://` and the last @ is left out, also that of schemes which are none: `mqtts://` has a password too. An @
/// behind the `?` ends a password where none is before it, or where what is behind the `?` is no keys and values.
pub fn told(uri: &str) -> String {
    let Some((scheme, rest)) = uri.split_once("://") else { return uri.to_owned() };
    if WITHOUT_LOGIN.contains(&scheme) {
        return uri.to_owned();
    }
    let (what, query) = rest.split_once('?').unwrap_or((rest, ""));
    let is_query = query.split('&').all(|pair| pair.is_empty() || pair.contains('='));
    let login = what.rfind('@').filter(|_| is_query).or_else(|| rest.rfind('@'));
    format!("{scheme}://{}", &rest[login.map_or(0, |at| at + 1)..])
}

/// A URI in its parts. What is asked of the query is taken out of it; [`Uri::end`] says what nobody asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Uri {
    /// What is before `://`.
    pub scheme: String,
    /// What is between `://` and `?`, as it was written.
    pub what: String,
    /// Keys and values, decoded.
    query: Vec<(String, String)>,
    /// Keys that were asked for.
    known: Vec<&'static str>,
    /// Whether the query may be the rest of a password, which no message shows.
    hides: bool,
}

impl Uri {
    /// The parts of `text`; none where it has no scheme, as a path has none.
    ///
    /// # Errors
    ///
    /// It is too long; its query is not of keys and values, or not decoded to text.
    pub fn parse(text: &str) -> Result<Option<Self>> {
        let Some((scheme, rest)) = text.split_once("://") else { return Ok(None) };
        let is_scheme = |char: char| char.is_ascii_alphanumeric() || "+-.".contains(char);
        if scheme.is_empty() || !scheme.chars().all(is_scheme) {
            return Ok(None);
        }
        ensure!(text.len() <= MOST_BYTES, "has {} bytes, expected {MOST_BYTES} at most", text.len());
        let (what, query) = rest.split_once('?').unwrap_or((rest, ""));
        let has_login = !WITHOUT_LOGIN.contains(&scheme);
        let hides = has_login && told(text) != format!("{scheme}://{}", behind_login(rest, what));
        let pair = |pair: &str| {
            let (key, value) = pair
                .split_once('=')
                .ok_or_else(|| anyhow!("has {:?} behind the ?, expected key=value", shown(pair, hides)))?;
            let decoded = |text| if hides { decoded_secret(text, "behind the ?") } else { decoded(text) };
            Ok((decoded(key)?, decoded(value)?))
        };
        let query = query.split('&').filter(|part| !part.is_empty()).map(pair).collect::<Result<_>>()?;
        Ok(Some(Self { scheme: scheme.to_owned(), what: what.to_owned(), query, known: Vec::new(), hides }))
    }

    /// What is between `://` and `?`, decoded.
    ///
    /// # Errors
    ///
    /// It is nothing, or no text.
    pub fn what(&self, expected: &str) -> Result<String> {
        ensure!(!self.what.is_empty(), "has nothing behind ://, expected {}://{expected}", self.scheme);
        decoded(&self.what)
    }

    /// All values of `key`, in order.
    pub fn take_all(&mut self, key: &'static str) -> Vec<String> {
        self.known.push(key);
        let (found, rest) =
            std::mem::take(&mut self.query).into_iter().partition::<Vec<_>, _>(|(name, _)| name == key);
        self.query = rest;
        found.into_iter().map(|(_, value)| value).collect()
    }

    /// The value of `key`.
    ///
    /// # Errors
    ///
    /// It has several.
    pub fn take(&mut self, key: &'static str) -> Result<Option<String>> {
        let mut values = self.take_all(key);
        ensure!(values.len() < 2, "has `{key}` {} times, expected once", values.len());
        Ok(values.pop())
    }

    /// The value of `key`, which is one of `choices`.
    ///
    /// # Errors
    ///
    /// It is none of them.
    pub fn choose<T: Copy>(&mut self, key: &'static str, choices: &[(&str, T)]) -> Result<Option<T>> {
        let Some(value) = self.take(key)? else { return Ok(None) };
        let chosen = choices.iter().find(|(name, _)| *name == value).map(|&(_, choice)| choice);
        let names: Vec<&str> = choices.iter().map(|&(name, _)| name).collect();
        chosen.map(Some).ok_or_else(|| {
            anyhow!("has {key}={}, expected {}", shown(&value, self.hides), names.join(" or "))
        })
    }

    /// Nothing more is asked of it.
    ///
    /// # Errors
    ///
    /// It has a key that nobody asked for.
    pub fn end(&self) -> Result<()> {
        let Some((key, _)) = self.query.first() else { return Ok(()) };
        let key = shown(key, self.hides);
        match self.known.is_empty() {
            true => bail!("has `{key}` behind the ?, {}:// takes nothing there", self.scheme),
            false => bail!("has `{key}` behind the ?, expected {}", super::list(&self.known)),
        }
    }
}

/// `rest`, whose part before the ? is `what`, behind the login that it has there.
fn behind_login<'a>(rest: &'a str, what: &str) -> &'a str {
    &rest[what.rfind('@').map_or(0, |at| at + 1)..]
}

/// Text for a message, unless it may be of a password.
fn shown(text: &str, hides: bool) -> String {
    if hides { "…".to_owned() } else { super::shown(text) }
}

/// As [`decoded`], of what no message shows; `place` says where it stands.
///
/// # Errors
///
/// As [`decoded`].
pub fn decoded_secret(text: &str, place: &str) -> Result<String> {
    decoded(text).map_err(|_| anyhow!("has a % {place} that is no character's, write %25"))
}

/// Text with its `%XX` made bytes.
pub fn decoded(text: &str) -> Result<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, behind)) = rest.split_first() {
        rest = behind;
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |at: usize| behind.get(at).and_then(|&digit| char::from(digit).to_digit(16));
        let (Some(high), Some(low)) = (digit(0), digit(1)) else {
            bail!("has a % without two hexadecimal digits behind it in {:?}, write %25", super::shown(text));
        };
        bytes.push((high * 16 + low) as u8);
        rest = &behind[2..];
    }
    String::from_utf8(bytes).map_err(|_| anyhow!("is no text in {:?}", super::shown(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uri_has_its_parts() {
        let check = |text: &str, scheme: &str, what: &str, query: &[(&str, &str)]| {
            let uri = Uri::parse(text).unwrap().unwrap();
            let found: Vec<(&str, &str)> = uri.query.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
            assert_eq!(
                (uri.scheme.as_str(), decoded(&uri.what).unwrap().as_str(), &found[..]),
                (scheme, what, query)
            );
        };
        check("tail:///var/log/x.log?from=start", "tail", "/var/log/x.log", &[("from", "start")]);
        check("journal://?unit=a%20b&unit=c%3D1&&", "journal", "", &[("unit", "a b"), ("unit", "c=1")]);
        check("tcp-listen://[::1]:5140", "tcp-listen", "[::1]:5140", &[]);
        check("mqtt://u:p@h:1/a/+/%23?qos=1?", "mqtt", "u:p@h:1/a/+/#", &[("qos", "1?")]);
        for path in ["-", "a.csv", "/a/b", "a b://c", "://x", "a?b=c"] {
            assert_eq!(Uri::parse(path).unwrap(), None, "{path}");
        }
    }

    #[test]
    fn no_password_is_told() {
        let check = |uri: &str, expected: &str| {
            assert_eq!(told(uri), expected);
            let parsed = Uri::parse(uri).and_then(|uri| {
                let mut uri = uri.unwrap();
                uri.choose("qos", &[("0", 0)])?;
                uri.end()
            });
            let error = parsed.err().map(|error| format!("{error:#}")).unwrap_or_default();
            assert!(!error.contains("pa") && !error.contains("ss@"), "{uri}: {error}");
        };
        for scheme in ["mqtt", "mqtts", "MQTT", "tcp", "http"] {
            for login in [
                "me:pass@",
                "me@",
                "@",
                "me:100%pass@",
                "me:pa/ss@",
                "me:pa?ss@",
                "me@x:pa?ss@",
                "me:pa?qos=ss@",
            ] {
                check(&format!("{scheme}://{login}h:1/t"), &format!("{scheme}://h:1/t"));
            }
            check(&format!("{scheme}://me:pa/ss@h/t?qos=0"), &format!("{scheme}://h/t?qos=0"));
        }
        check("mqtt://me:pa?x%=ss@h/t", "mqtt://h/t");
        check("mqtt://me:pass@h/t?client-id=a@b", "mqtt://h/t?client-id=a@b");
        for whole in
            ["a@b.csv", "tail:///a@b/c", "journal://?unit=user@0.service", "mqtt://h/t?qos=0", "-", "a?b@c"]
        {
            assert_eq!(told(whole), whole);
        }
    }

    #[test]
    fn what_is_wrong_with_a_uri_is_told() {
        let error = |text: &str| {
            let parsed = Uri::parse(text).map(|uri| uri.unwrap()).and_then(|mut uri| {
                uri.take("to")?;
                uri.choose("from", &[("start", 1), ("end", 2)])?;
                uri.what("PATH")?;
                uri.end()
            });
            parsed.unwrap_err().to_string()
        };
        assert_eq!(error("tail://x?from"), "has \"from\" behind the ?, expected key=value");
        assert_eq!(error("tail://x?from=here"), "has from=here, expected start or end");
        assert_eq!(error("tail://x?to=1&to=2"), "has `to` 2 times, expected once");
        assert_eq!(error("tail://x?form=start"), "has `form` behind the ?, expected `to`, `from`");
        assert_eq!(
            error("tail://x%2"),
            "has a % without two hexadecimal digits behind it in \"x%2\", write %25"
        );
        assert_eq!(error("tail://x?a=%ff"), "is no text in \"%ff\"");
        assert_eq!(error("tail://"), "has nothing behind ://, expected tail://PATH");
        assert!(error(&format!("tail://{}", "x".repeat(5000))).contains("4096 at most"));
    }
}
