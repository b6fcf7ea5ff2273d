//! `hourglass webhook`: who is told what, by webhook.

use std::collections::BTreeSet;

use hourglass_consumers::hooks::{Hooks, WebhookRow, event_types, is_event_type, webhook, webhooks};
use hourglass_ledger::cell::Clock;
use hourglass_ledger::core::webhooks::{EVERY_TYPE, Owner, WebhookAction, WebhookCommand, WebhookDraft};
use hourglass_ledger::core::{Command, Rejection, State};
use hourglass_units::{TenantId, WebhookId};
use serde_json::{Value, json};

use super::change::AFTER_HELP;
use super::quota::whole_seconds;
use super::{rows_of, tenant_of};
use crate::client::{Client, Server, not_understood};
use crate::config::Resolved;
use crate::failure::Failure;
use crate::output::{Format, answer, log_progress, table};
use crate::wire::{self, WallClock};

/// Webhooks: create, list, show, update, rotate the secret, test, deliveries, redeliver, delete.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    #[command(flatten)]
    server: Server,
    #[command(subcommand)]
    action: Action,
}

/// Whose a webhook is.
#[derive(Debug, clap::Args)]
struct Whose {
    /// Of which tenant [default: the operator's own, which are told of every tenant]
    #[arg(long)]
    tenant: Option<TenantId>,
}

#[derive(Debug, clap::Args)]
struct Which {
    /// Which
    webhook: WebhookId,
    #[command(flatten)]
    whose: Whose,
}

#[derive(Debug, clap::Args)]
struct Form {
    #[command(flatten)]
    which: Which,
    /// Where messages are sent: https, to a public address, on port 443 or 8443
    url: String,
    /// Of which types it is told, separated by commas; `webhook types` lists them [default: all]
    #[arg(long, value_name = "TYPE", value_delimiter = ',', value_parser = event_type)]
    events: Vec<String>,
    /// For people
    #[arg(long, default_value = "")]
    description: String,
    /// It is not told anything for now
    #[arg(long)]
    disabled: bool,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Make a webhook, and show its secret, this once
    Create(Form),
    /// Webhooks, and how they do
    List(Whose),
    /// One webhook
    Show(Which),
    /// Give a webhook another form, all of it
    Update(Form),
    /// Sign with another secret, and show it, this once
    Rotate {
        #[command(flatten)]
        which: Which,
        /// How long the secret before signs too
        #[arg(long, value_name = "DURATION", value_parser = whole_seconds, default_value = "1d")]
        overlap: i64,
    },
    /// Send a message that says nothing
    Test(Which),
    /// Messages to a webhook and their attempts, the newest first (of a running cell)
    Deliveries(Which),
    /// Send a message again, under the same id (by a running cell)
    Redeliver {
        #[command(flatten)]
        which: Which,
        /// Its `webhook-id`
        message: String,
    },
    /// Forget a webhook, and what is still to be sent to it
    Delete(Which),
    /// The types of events that a webhook can be told of
    Types,
}

/// Reads the name of a type.
fn event_type(text: &str) -> Result<String, String> {
    if is_event_type(text) {
        return Ok(text.to_owned());
    }
    Err(format!("there is no such type: `hourglass webhook types` lists them, and {EVERY_TYPE:?} is all"))
}

impl Whose {
    fn path(&self) -> String {
        match &self.tenant {
            Some(tenant) => format!("/v1/tenants/{tenant}/webhooks"),
            None => "/v1/webhooks".to_owned(),
        }
    }
}

impl Which {
    fn path(&self) -> String {
        format!("{}/{}", self.whose.path(), self.webhook)
    }
}

/// Where it is done.
#[derive(Clone, Copy)]
struct At<'a> {
    server: &'a Server,
    settings: &'a Resolved,
    format: Format,
}

/// Runs the command.
pub fn run(args: Args, settings: &Resolved, format: Format) -> Result<(), Failure> {
    let at = At { server: &args.server, settings, format };
    match args.action {
        Action::Create(form) => create(form, at),
        Action::List(whose) => list(&whose, at),
        Action::Show(which) => show(&which, at),
        Action::Update(form) => {
            let (which, draft) = drafted(form);
            let body = json!({"url": draft.url, "events": draft.events, "description": draft.description,
                "enabled": draft.enabled});
            let says = format!("webhook {} is changed", which.webhook);
            let path = which.path();
            let done = match at.server.client()? {
                Some(client) => client.put(&path, &body)?,
                None => {
                    check_here(&hooks(at)?, &draft)?;
                    here(at, which, WebhookAction::Update { draft })?
                }
            };
            said(at, &done, &says)
        }
        Action::Rotate { which, overlap } => rotate(which, overlap, at),
        Action::Test(which) => {
            let says = "a message will be sent".to_owned();
            let path = format!("{}:test", which.path());
            let done = match at.server.client()? {
                Some(client) => client.post(&path, &json!({}))?,
                None => here(at, which, WebhookAction::Test)?,
            };
            said(at, &done, &says)
        }
        Action::Deliveries(which) => deliveries(&which, at),
        Action::Redeliver { which, message } => {
            let path = format!("{}/deliveries/{message}:redeliver", which.path());
            let done = running(at)?.post(&path, &json!({}))?;
            said(at, &done, &format!("{message} will be sent again"))
        }
        Action::Delete(which) => {
            let says = format!("webhook {} is gone", which.webhook);
            let done = match at.server.client()? {
                Some(client) => client.delete(&which.path())?,
                None => here(at, which, WebhookAction::Delete)?,
            };
            said(at, &done, &says)
        }
        Action::Types => {
            let types: Vec<&str> = event_types().collect();
            answer(format, &types, |types| types.join("\n"))
        }
    }
}

fn drafted(form: Form) -> (Which, WebhookDraft) {
    let Form { which, url, events, description, disabled } = form;
    let mut events: BTreeSet<String> = events.into_iter().collect();
    if events.is_empty() {
        events.insert(EVERY_TYPE.to_owned());
    }
    (which, WebhookDraft { url, description, events, enabled: !disabled })
}

/// What a running cell would refuse of a URL.
fn check_here(hooks: &Hooks, draft: &WebhookDraft) -> Result<(), Failure> {
    hooks.guard().check(&draft.url).map(|_| ()).map_err(|refusal| Failure::Rejected(refusal.to_string()))
}

/// The key of the data directory, or of the settings.
fn hooks(at: At<'_>) -> Result<Hooks, Failure> {
    let missing = "no key for webhooks: set webhooks.key_file or HOURGLASS_WEBHOOK_KEY";
    let hooks = at.settings.webhooks.open(Some(&at.settings.data))?;
    hooks.ok_or_else(|| Failure::Usage(missing.to_owned()))
}

/// A cell that runs: what is remembered of deliveries only it has.
fn running(at: At<'_>) -> Result<Client, Failure> {
    let how = "deliveries are known to a running cell alone: give --server URL to ask it";
    at.server.client()?.ok_or_else(|| Failure::Usage(how.to_owned()))
}

/// Does it on the data directory.
fn here(at: At<'_>, which: Which, action: WebhookAction) -> Result<Value, Failure> {
    let resource = which.path();
    let command = WebhookCommand { owner: which.whose.tenant, webhook: which.webhook, action };
    let cell = wire::writing_cell(at.settings, log_progress("recovering the ledger"))?;
    let outcome = cell.handle().submit_blocking(Command::from(command));
    cell.close();
    Ok(json!({"position": outcome?.answer().position.number(), "resource": resource}))
}

fn said(at: At<'_>, done: &Value, says: &str) -> Result<(), Failure> {
    let position = done.get("position").map(ToString::to_string).unwrap_or_default();
    answer(at.format, done, |_| format!("{says} (position {position})"))
}

/// The secret alone goes to stdout, so that it can be piped to where it is kept.
fn show_secret(at: At<'_>, done: &Value, what: &str) -> Result<(), Failure> {
    let secret = done.get("secret").and_then(Value::as_str).unwrap_or_default().to_owned();
    if at.format == Format::People {
        eprintln!("{what}; its secret is shown this once, and nobody can show it again:");
    }
    answer(at.format, done, |_| secret)
}

fn create(form: Form, at: At<'_>) -> Result<(), Failure> {
    let (which, draft) = drafted(form);
    let what = format!("webhook {} is made", which.webhook);
    let done = match at.server.client()? {
        Some(client) => {
            let body = json!({"webhook": which.webhook, "url": draft.url, "events": draft.events,
                "description": draft.description, "enabled": draft.enabled});
            client.post(&which.whose.path(), &body)?
        }
        None => {
            let hooks = hooks(at)?;
            check_here(&hooks, &draft)?;
            let drawn = hooks.draw(&which.whose.tenant, &which.webhook);
            let (secret, sealed) = drawn.map_err(|error| Failure::Unavailable(error.to_string()))?;
            let mut done = here(at, which, WebhookAction::Create { draft, secret: sealed })?;
            with(&mut done, "secret", secret.reveal());
            done
        }
    };
    show_secret(at, &done, &what)
}

fn rotate(which: Which, overlap_ms: i64, at: At<'_>) -> Result<(), Failure> {
    let what = format!("webhook {} is signed anew", which.webhook);
    let done = match at.server.client()? {
        Some(client) => {
            let body = json!({"overlap_seconds": overlap_ms.div_euclid(1_000)});
            client.post(&format!("{}:rotate-secret", which.path()), &body)?
        }
        None => {
            let drawn = hooks(at)?.draw(&which.whose.tenant, &which.webhook);
            let (secret, sealed) = drawn.map_err(|error| Failure::Unavailable(error.to_string()))?;
            let mut done = here(at, which, WebhookAction::Rotate { secret: sealed, overlap_ms })?;
            with(&mut done, "secret", secret.reveal());
            done
        }
    };
    show_secret(at, &done, &what)
}

fn with(done: &mut Value, name: &str, text: String) {
    if let Some(members) = done.as_object_mut() {
        members.insert(name.to_owned(), Value::String(text));
    }
}

/// Reads the state of the data directory, where the tenant is known.
fn state_of(at: At<'_>, owner: &Owner) -> Result<State, Failure> {
    let (_reader, loaded) = wire::read_ledger(at.settings, log_progress("reading the ledger"))?;
    if let Some(tenant) = owner {
        tenant_of(&loaded.state, tenant)?;
    }
    Ok(loaded.state)
}

fn list(whose: &Whose, at: At<'_>) -> Result<(), Failure> {
    let rows: Vec<WebhookRow> = match at.server.client()? {
        Some(client) => rows_of(&client, &whose.path())?,
        None => {
            let state = state_of(at, &whose.tenant)?;
            webhooks(&state, &whose.tenant, None, WallClock.now()).collect()
        }
    };
    answer(at.format, &rows, |rows| {
        let cells = rows.iter().map(|it| {
            let since = it.status_since.clone().unwrap_or_default();
            let reason = it.reason.clone().unwrap_or_default();
            vec![it.webhook.clone(), it.url.clone(), it.events.join(" "), it.status.clone(), since, reason]
        });
        table(&["webhook", "url", "events", "status", "since", "reason"], &[], cells)
    })
}

fn show(which: &Which, at: At<'_>) -> Result<(), Failure> {
    let row: WebhookRow = match at.server.client()? {
        Some(client) => {
            serde_json::from_value(client.get(&which.path())?).map_err(|error| not_understood(&error))?
        }
        None => {
            let state = state_of(at, &which.whose.tenant)?;
            let row = webhook(&state, &which.whose.tenant, &which.webhook, WallClock.now());
            let unknown = || Rejection::WebhookUnknown { webhook: which.webhook.clone() };
            row.ok_or_else(|| Failure::Rejected(unknown().to_string()))?
        }
    };
    answer(at.format, &row, |it| {
        let mut lines = vec![
            format!("webhook      {}", it.webhook),
            format!("url          {}", it.url),
            format!("events       {}", it.events.join(" ")),
            format!("status       {}", it.status),
        ];
        let more = [
            ("since        ", &it.status_since),
            ("reason       ", &it.reason),
            ("old secret   until ", &it.previous_secret_until),
        ];
        lines.extend(more.iter().filter_map(|(name, text)| Some(format!("{name}{}", text.as_ref()?))));
        lines.push(format!("created      {}", it.created_at));
        lines.push(format!("changed      {}", it.changed_at));
        lines.join("\n")
    })
}

fn deliveries(which: &Which, at: At<'_>) -> Result<(), Failure> {
    let rows = running(at)?.list(&format!("{}/deliveries", which.path()))?;
    answer(at.format, &rows, |rows| {
        let cells = rows.iter().map(|it| {
            let text = |name: &str| it.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
            let attempts = it.get("attempts").and_then(Value::as_array);
            let last = attempts.and_then(|all| all.last());
            let of_last = |name: &str| last.and_then(|last| last.get(name));
            let answered = match of_last("error").and_then(Value::as_str) {
                Some(error) => error.to_owned(),
                None => of_last("status").map(ToString::to_string).unwrap_or_default(),
            };
            let made = it.get("attempts_made").map(ToString::to_string).unwrap_or_default();
            vec![text("id"), text("type"), text("outcome"), made, answered, text("next_attempt_at")]
        });
        table(&["message", "type", "outcome", "attempts", "last", "next"], &[3], cells)
    })
}
