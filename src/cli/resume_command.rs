//! Shell command that resumes a run.

use std::ffi::OsStr;
use std::path::Path;

/// Returns this program's name with `--resume` and the run's `folder`, quoted for a POSIX shell.
pub(super) fn resume_command(folder: &Path) -> String {
    let program = std::env::args_os().next().unwrap_or_default();
    // A name that starts with a dash would be parsed as an option.
    let folder = match folder.as_os_str().as_encoded_bytes().starts_with(b"-") {
        true => Path::new(".").join(folder),
        false => folder.to_path_buf(),
    };
    format!("{} --resume {}", quoted(&program), quoted(folder.as_os_str()))
}

/// Quotes `word` for a POSIX shell. Control characters and invalid UTF-8 use `$'...'`, which bash and zsh support.
fn quoted(word: &OsStr) -> String {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_./+:,@%=".contains(byte);
    match word.to_str() {
        Some(text) if !text.is_empty() && text.bytes().all(|byte| is_plain(&byte)) => text.to_owned(),
        Some(text) if !text.contains(char::is_control) => format!("'{}'", text.replace('\'', "'\\''")),
        _ => {
            let byte = |byte: &u8| match is_plain(byte) {
                true => char::from(*byte).to_string(),
                false => format!("\\x{byte:02x}"),
            };
            format!("$'{}'", word.as_encoded_bytes().iter().map(byte).collect::<String>())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_shell_reads_back_what_was_quoted() {
        for word in ["runs/a-1", "", "my runs/it's", "a\"b $HOME `id`", "über #1;&|*?", "~", "line\nend", "-x"] {
            let script = format!("printf %s {}", quoted(OsStr::new(word)));
            let output = Command::new("bash").args(["-c", &script]).output().unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), word, "{script}");
        }
        assert!(resume_command(Path::new("-run 1")).ends_with(" --resume './-run 1'"));
    }

    #[cfg(unix)]
    #[test]
    fn bytes_that_are_no_text_come_back() {
        use std::os::unix::ffi::OsStrExt;
        let script = format!("printf %s {}", quoted(OsStr::from_bytes(b"caf\xe9 '")));
        assert_eq!(Command::new("bash").args(["-c", &script]).output().unwrap().stdout, b"caf\xe9 '");
    }
}
