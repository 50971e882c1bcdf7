//! The SSH below: who may come in, and how a session begins.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use russh::server::{
    Auth, ChannelOpenHandle, Config, Handler, Msg, PublicKeyOffer, Session as SshSession,
    VerifiedPublicKey,
};
use russh::{Channel, ChannelId};
use tokio::io::{copy_bidirectional, duplex};
use tokio::net::TcpStream;

use super::session::Session;
use super::{PASSWORD, Shared, USER};

/// The bytes between the socket and the session.
const BUFFER_MAX: usize = 256 << 10;

pub(super) async fn serve(shared: Arc<Shared>, mut stream: TcpStream) {
    let config = Arc::new(Config {
        keys: vec![shared.lock().host_key.clone()],
        auth_rejection_time: Duration::ZERO,
        auth_rejection_time_initial: Some(Duration::ZERO),
        nodelay: true,
        ..Config::default()
    });
    let door = Door {
        shared,
        channels: HashMap::new(),
    };
    // The session is a task of the library's, out of our reach: it ends when its end of this does.
    let (mut outside, inside) = duplex(BUFFER_MAX);
    let session = async {
        if let Ok(session) = russh::server::run_stream(config, inside, door).await {
            // How it ended is the client's to tell.
            let _ = session.await;
        }
    };
    let _ = tokio::join!(session, async {
        let carried = copy_bidirectional(&mut stream, &mut outside).await;
        drop(outside);
        carried
    });
}

/// One connection, before and while it has channels.
struct Door {
    shared: Arc<Shared>,
    channels: HashMap<ChannelId, Channel<Msg>>,
}

impl Handler for Door {
    type Error = russh::Error;

    async fn auth_password(&mut self, user: &str, password: &str) -> Result<Auth, Self::Error> {
        self.shared.lock().logins += 1;
        Ok(judge(user == USER && password == PASSWORD))
    }

    async fn auth_publickey_offered(
        &mut self,
        user: &str,
        offer: PublicKeyOffer<'_>,
    ) -> Result<Auth, Self::Error> {
        let mut state = self.shared.lock();
        state.logins += 1;
        let known = &state.authorized;
        let known = known
            .iter()
            .any(|key| key.key_data() == offer.public_key.key_data());
        Ok(judge(user == USER && known))
    }

    async fn auth_publickey(
        &mut self,
        user: &str,
        key: VerifiedPublicKey<'_>,
    ) -> Result<Auth, Self::Error> {
        let state = self.shared.lock();
        let known = &state.authorized;
        let known = known
            .iter()
            .any(|it| it.key_data() == key.public_key.key_data());
        Ok(judge(user == USER && known))
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _session: &mut SshSession,
    ) -> Result<(), Self::Error> {
        self.channels.insert(channel.id(), channel);
        reply.accept().await;
        Ok(())
    }

    async fn subsystem_request(
        &mut self,
        channel: ChannelId,
        name: &str,
        session: &mut SshSession,
    ) -> Result<(), Self::Error> {
        match self.channels.remove(&channel) {
            Some(opened) if name == "sftp" => {
                session.channel_success(channel)?;
                let sftp = Session::new(Arc::clone(&self.shared));
                tokio::spawn(sftp.run(opened.into_stream()));
            }
            _ => session.channel_failure(channel)?,
        }
        Ok(())
    }
}

fn judge(welcome: bool) -> Auth {
    match welcome {
        true => Auth::Accept,
        false => Auth::reject(),
    }
}
