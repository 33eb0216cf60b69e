//! Databases for tests: SQLite in a folder, or one of its own on the Postgres that `ULM_TEST_POSTGRES` names.

use tempfile::TempDir;
use ulm::store::{Blobs, Ledger};

/// A database of its own for every test.
pub struct Place {
    pub dir: TempDir,
    pub url: Option<String>,
}

impl Place {
    pub fn sqlite() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), url: None }
    }

    pub async fn postgres() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), url: Some(postgres_database().await) }
    }

    pub async fn open(&self) -> Ledger {
        let blobs = Blobs::folder(&self.dir.path().join("blobs")).unwrap();
        match &self.url {
            Some(url) => Ledger::postgres(url, blobs).await.unwrap(),
            None => Ledger::sqlite(&self.file(), blobs).await.unwrap(),
        }
    }

    pub fn file(&self) -> std::path::PathBuf {
        self.dir.path().join("ledger #1?.sqlite")
    }
}

/// A fresh database on the server of the tests.
#[expect(clippy::disallowed_methods, reason = "where Postgres is, is for whoever starts the tests to say")]
pub async fn postgres_database() -> String {
    let server = std::env::var("ULM_TEST_POSTGRES").expect("ULM_TEST_POSTGRES names no server");
    let name = format!("ulm_{}", uuid::Uuid::now_v7().simple());
    sqlx::any::install_default_drivers();
    let pool = sqlx::AnyPool::connect(&format!("{server}/postgres")).await.unwrap();
    sqlx::query(sqlx::AssertSqlSafe(format!("CREATE DATABASE {name}"))).execute(&pool).await.unwrap();
    format!("{server}/{name}")
}

/// Runs the same bodies on SQLite and on Postgres.
macro_rules! on_both {
    ($($name:ident $body:ident),+) => {
        mod sqlite { $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                super::$body(crate::place::Place::sqlite()).await;
            }
        )+ }
        mod postgres { $(
            #[tokio::test(flavor = "multi_thread")]
            #[ignore = "needs ULM_TEST_POSTGRES"]
            async fn $name() {
                super::$body(crate::place::Place::postgres().await).await;
            }
        )+ }
    };
}
pub(crate) use on_both;
