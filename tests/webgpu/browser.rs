//! A browser that works through jobs: it loads a page from this process, on 127.0.0.1 because only a
//! page of this machine or of https has `navigator.gpu`, and takes jobs and sends results over HTTP.

use crate::chromium::FLAGS;
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A JSON head and words.
pub type Message = (Value, Vec<u32>);

/// What the page asks and tells. It has two jobs at a time.
pub trait Desk: Send + Sync + 'static {
    /// The device that is there.
    fn device(&self, about: &Value);
    /// The next job; it has its number in `id`.
    fn job(&self) -> Option<Message>;
    /// What came of a job.
    fn done(&self, id: usize, result: Message);
}

/// Longest time without a word from the page: SwiftShader compiles on a machine that may be busy.
const SILENCE: Duration = Duration::from_secs(180);

struct Heard {
    last: Instant,
    /// Faults, once the page is through.
    end: Option<Vec<String>>,
}

fn pack((head, words): &Message) -> Vec<u8> {
    let text = head.to_string();
    let mut body = (text.len() as u32).to_le_bytes().to_vec();
    body.extend(text.as_bytes());
    body.resize(body.len().next_multiple_of(4), 0);
    body.extend(bytemuck::cast_slice::<u32, u8>(words));
    body
}

fn unpack(body: &[u8]) -> Message {
    let length = u32::from_le_bytes(body[..4].try_into().expect("4 bytes")) as usize;
    let head = serde_json::from_slice(&body[4..4 + length]).expect("JSON");
    let words = body[(4 + length).next_multiple_of(4)..].chunks_exact(4);
    (head, words.map(|w| u32::from_le_bytes(w.try_into().expect("4 bytes"))).collect())
}

/// Answers one request.
fn answer(stream: TcpStream, desk: &dyn Desk, heard: &Mutex<Heard>) -> std::io::Result<()> {
    // A browser opens connections in advance and may never use them.
    stream.set_read_timeout(Some(SILENCE))?;
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    stream.read_line(&mut line)?;
    let path = line.split(' ').nth(1).unwrap_or_default().to_string();
    let mut length = 0;
    loop {
        let mut header = String::new();
        if stream.read_line(&mut header)? == 0 || header.trim().is_empty() {
            break;
        }
        if let Some((name, value)) = header.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().unwrap_or(0);
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    let hear = |end| {
        let mut heard = heard.lock().expect("no panic");
        heard.last = Instant::now();
        heard.end = heard.end.take().or(end);
    };
    hear(None);
    let (status, kind, content) = match path.as_str() {
        "/" => ("200 OK", "text/html", include_bytes!("page.html").to_vec()),
        "/job" => match desk.job() {
            Some(job) => ("200 OK", "application/octet-stream", pack(&job)),
            None => ("204 No Content", "text/plain", Vec::new()),
        },
        "/device" => {
            desk.device(&unpack(&body).0);
            ("200 OK", "text/plain", Vec::new())
        }
        "/end" => {
            let faults = unpack(&body).0["faults"].as_array().cloned().unwrap_or_default();
            hear(Some(faults.iter().map(|f| f.as_str().unwrap_or_default().into()).collect()));
            ("200 OK", "text/plain", Vec::new())
        }
        path => match path.strip_prefix("/done/").and_then(|id| id.parse().ok()) {
            Some(id) => {
                desk.done(id, unpack(&body));
                ("200 OK", "text/plain", Vec::new())
            }
            None => ("404 Not Found", "text/plain", Vec::new()),
        },
    };
    let stream = stream.get_mut();
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        content.len()
    )?;
    stream.write_all(&content)
}

/// Ends the browser, its other processes with it.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Asked to end, it ends the processes that it started; killed, it would leave them.
        let _ = Command::new("kill").arg(self.0.id().to_string()).status();
        for _ in 0..100 {
            if matches!(self.0.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Has a browser work through all jobs. Returns what its device complained of beyond them.
pub fn work_through(browser: &Path, desk: Arc<dyn Desk>) -> Vec<String> {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let heard = Arc::new(Mutex::new(Heard { last: Instant::now(), end: None }));
    let (for_answers, log) = (heard.clone(), tempfile::tempdir().expect("a folder"));
    // These threads end with the process.
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (desk, heard) = (desk.clone(), for_answers.clone());
            std::thread::spawn(move || answer(stream, &*desk, &heard));
        }
    });
    let err = log.path().join("stderr");
    let child = Command::new(browser)
        .args(FLAGS)
        .args(["--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader"])
        .args(["--enable-features=Vulkan", "--disable-gpu-sandbox", "--disable-gpu-watchdog"])
        .args(["--disable-renderer-backgrounding", "--disable-background-timer-throttling"])
        // Whatever the browser wants for itself goes nowhere.
        .arg("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1")
        .arg(format!("--user-data-dir={}", log.path().join("profile").display()))
        .arg(format!("http://{address}/"))
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(&err).expect("a file"))
        .spawn()
        .expect("a browser");
    let mut running = Running(child);
    loop {
        std::thread::sleep(Duration::from_millis(50));
        let mut heard = heard.lock().expect("no panic");
        if let Some(faults) = heard.end.take() {
            return faults;
        }
        let ended = running.0.try_wait().expect("a process");
        if ended.is_some() || heard.last.elapsed() > SILENCE {
            let said = std::fs::read_to_string(&err).unwrap_or_default();
            let tail: Vec<&str> = said.lines().rev().take(20).collect();
            panic!("the browser says nothing more ({ended:?}):\n{}", tail.join("\n"));
        }
    }
}
