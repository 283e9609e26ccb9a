//! Where a secret comes from, and the environment.

use std::{fs::File, io, io::Read as _, path::PathBuf};

use secrecy::{ExposeSecret as _, SecretString};
use zeroize::Zeroizing;

/// A credential longer than this is not one: somebody named the wrong file.
const SECRET_BYTES_MAX: u64 = 64 * 1024;

/// A list longer than this is not one of secrets.
const SECRETS_MAX: usize = 16;

/// Where a secret comes from. Its `Debug` shows the place, never the secret.
#[derive(Clone, Debug)]
pub enum Source {
    /// A file, read again each time the secret is needed: rotation needs no restart.
    File(PathBuf),
    /// The secret itself, from the environment.
    Value(SecretString),
}

/// The variables of the environment. One that is not text is none of ours.
pub fn variables() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

impl Source {
    /// The secret as it is now, without one trailing newline (`\n` or `\r\n`).
    ///
    /// Fails on a file that cannot be read, is empty, is not UTF-8, or is larger than 64 KiB.
    /// A file read blocks for as long as the file system takes.
    pub fn read(&self) -> io::Result<SecretString> {
        match self {
            Self::File(path) => {
                let file = File::open(path)?;
                let limit = SECRET_BYTES_MAX.saturating_add(1);
                // Of the right size from the start: what grows leaves copies behind.
                let capacity = file.metadata()?.len().min(limit).saturating_add(1);
                let capacity = usize::try_from(capacity).unwrap_or_default();
                let mut text = Zeroizing::new(String::with_capacity(capacity));
                let bytes = file.take(limit).read_to_string(&mut text)?;
                if u64::try_from(bytes).unwrap_or(u64::MAX) > SECRET_BYTES_MAX {
                    return Err(io::Error::new(io::ErrorKind::FileTooLarge, "larger than 64KiB"));
                }
                let secret = text.strip_suffix("\r\n").or_else(|| text.strip_suffix('\n')).unwrap_or(&text);
                if secret.is_empty() {
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "empty"));
                }
                Ok(SecretString::from(secret))
            }
            Self::Value(secret) => Ok(secret.clone()),
        }
    }
}

impl Source {
    /// The secrets as they are now, one a line, blank lines apart: two while one takes over from the other.
    ///
    /// Fails as [`Source::read`], and where there is none or there are more than sixteen.
    pub fn read_list(&self) -> io::Result<Vec<SecretString>> {
        let text = self.read()?;
        let lines = text.expose_secret().lines().filter(|line| !line.trim().is_empty());
        let secrets: Vec<_> = lines.map(SecretString::from).collect();
        match secrets.len() {
            0 => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "empty")),
            1..=SECRETS_MAX => Ok(secrets),
            more => Err(io::Error::new(io::ErrorKind::InvalidData, format!("{more} lines"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn read(content: &[u8]) -> io::Result<String> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("secret");
        fs::write(&path, content)?;
        Source::File(path).read().map(|secret| secret.expose_secret().to_owned())
    }

    #[test]
    fn one_trailing_newline_is_no_part_of_a_secret() {
        for (content, secret) in [
            ("s3cret", "s3cret"),
            ("s3cret\n", "s3cret"),
            ("s3cret\r\n", "s3cret"),
            ("s3cret\n\n", "s3cret\n"),
        ] {
            assert_eq!(read(content.as_bytes()).unwrap(), secret, "{content:?}");
        }
    }

    #[test]
    fn what_cannot_be_a_secret_is_an_error() {
        assert_eq!(read(b"").unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(read(b"\n").unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(read(&[0xff, 0xfe]).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert_eq!(read(&vec![b'x'; 64 * 1024]).unwrap().len(), 64 * 1024);
        assert_eq!(read(&vec![b'x'; 64 * 1024 + 1]).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        let missing = Source::File("does/not/exist".into());
        assert_eq!(missing.read().unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_list_has_one_secret_a_line() {
        let list = |text: &str| {
            let secrets = Source::Value(SecretString::from(text)).read_list()?;
            io::Result::Ok(secrets.iter().map(|secret| secret.expose_secret().to_owned()).collect::<Vec<_>>())
        };
        assert_eq!(list("one").unwrap(), ["one"]);
        assert_eq!(list("one, and more\r\n\n two\n").unwrap(), ["one, and more", " two"]);
        assert_eq!(list(" \n\n").unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(list(&"x\n".repeat(16)).unwrap().len(), 16);
        assert_eq!(list(&"x\n".repeat(17)).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn a_rotated_file_is_seen_without_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        let source = Source::File(path.clone());
        for secret in ["before", "after"] {
            fs::write(&path, secret).unwrap();
            assert_eq!(source.read().unwrap().expose_secret(), secret);
        }
    }

    #[test]
    fn what_was_read_is_overwritten_when_it_is_not_needed_any_more() {
        fn is_overwritten<T: zeroize::ZeroizeOnDrop>(_: &T) {}
        let source = Source::Value(SecretString::from("s3cret"));
        is_overwritten(&source.read().unwrap());
        source.read_list().unwrap().iter().for_each(is_overwritten);
    }

    #[test]
    fn debug_does_not_show_the_secret() {
        let source = Source::Value(SecretString::from("s3cret"));
        assert!(!format!("{source:?}").contains("s3cret"));
    }
}
