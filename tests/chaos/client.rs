//! A neighbouring service: it tells facts to whoever writes, and repeats itself until it is heard.

use std::time::Duration;

use serde_json::{Value, json};

use super::clock::{Stopwatch, pause};
use super::schedule::{Fact, Schedule, tenants};

/// A process that was stopped takes connections and answers nothing.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);
/// Somebody writes again within this, whatever was done to whom.
const HEARD_WITHIN_MS: u64 = 90_000;

/// How many tell facts at the same time.
const TELLERS: usize = 4;

/// The two servers as one sees them from outside, or a single one.
#[derive(Clone)]
pub(crate) struct Client {
    urls: Vec<String>,
    agent: ureq::Agent,
}

impl Client {
    pub(crate) fn new(urls: Vec<String>) -> Self {
        let config = ureq::Agent::config_builder().http_status_as_error(false);
        Self { urls, agent: config.timeout_global(Some(ANSWER_WITHIN)).build().new_agent() }
    }

    fn ask(&self, url: &str, path: &str) -> Result<(u16, Value), ureq::Error> {
        let mut answer = self.agent.get(format!("{url}{path}")).call()?;
        Ok((answer.status().as_u16(), answer.body_mut().read_json().unwrap_or_default()))
    }

    fn send(
        &self,
        url: &str,
        path: &str,
        key: &str,
        body: (&str, &[u8]),
    ) -> Result<(u16, Value), ureq::Error> {
        let request = self.agent.post(format!("{url}{path}")).header("idempotency-key", key);
        let mut answer = request.header("content-type", body.0).send(body.1)?;
        Ok((answer.status().as_u16(), answer.body_mut().read_json().unwrap_or_default()))
    }

    /// Which of the servers writes, by what it says itself.
    pub(crate) fn writer(&self) -> Option<usize> {
        (0..self.urls.len()).find(|server| self.writes(*server))
    }

    /// Whether this one says that it writes.
    pub(crate) fn writes(&self, server: usize) -> bool {
        self.ask(&self.urls[server], "/readyz").is_ok_and(|(status, _)| status == 200)
    }

    /// Whether this one stands by and knows who writes.
    pub(crate) fn stands_by(&self, server: usize) -> bool {
        let readiness = self.ask(&self.urls[server], "/readyz");
        readiness.is_ok_and(|(status, problem)| status == 503 && problem["writer"].is_string())
    }

    /// What the writer answers.
    pub(crate) fn get(&self, path: &str) -> Value {
        let answered = |url: &String| self.ask(url, path).ok().filter(|(status, _)| *status == 200);
        until_heard(path, || self.urls.iter().find_map(answered)).1
    }

    /// Says something under a name until it is done. Whoever does not write refuses, and nothing is known
    /// of whoever does not answer: a repeat under the same name does it once.
    pub(crate) fn tell(&self, key: &str, path: &str, body: &Value) {
        self.tell_bytes(key, path, ("application/json", body.to_string().as_bytes()));
    }

    pub(crate) fn tell_bytes(&self, key: &str, path: &str, body: (&str, &[u8])) {
        until_heard(path, || {
            self.urls.iter().find_map(|url| match self.send(url, path, key, body) {
                Ok((200..300, _)) => Some(()),
                Ok((status, problem)) if status < 500 => panic!("{key} {path}: {status} {problem}"),
                Ok(_) | Err(_) => None,
            })
        });
    }

    /// Tells every fact, when it is due where a watch is given. Several tellers share the instances, each
    /// tells what it knows of one in order.
    pub(crate) fn tell_all(&self, schedule: &Schedule, watch: Option<Stopwatch>) {
        let tell = |fact: &Fact| {
            while watch.is_some_and(|watch| watch.ms() < fact.due) {
                pause(20);
            }
            self.tell(&fact.key, &fact.path, &fact.body);
        };
        schedule.facts.iter().filter(|fact| fact.instance.is_none()).for_each(tell);
        std::thread::scope(|scope| {
            for teller in 0..TELLERS {
                let is_mine =
                    move |fact: &&Fact| fact.instance.is_some_and(|number| number % TELLERS == teller);
                scope.spawn(move || schedule.facts.iter().filter(is_mine).for_each(tell));
            }
        });
    }

    /// Closes both months of every tenant.
    pub(crate) fn finalise(&self, schedule: &Schedule) {
        for tenant in tenants() {
            for month in schedule.months {
                let path = format!("/v1/tenants/{tenant}/invoices");
                self.tell(
                    &format!("finalise-{tenant}-{month}"),
                    &path,
                    &json!({"period": month.to_string()}),
                );
            }
        }
    }
}

fn until_heard<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let watch = Stopwatch::start();
    loop {
        if let Some(answer) = attempt() {
            return answer;
        }
        assert!(watch.ms() < HEARD_WITHIN_MS, "{what}: nobody did it for {HEARD_WITHIN_MS} ms");
        pause(50);
    }
}
