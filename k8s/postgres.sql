-- Made by `make docs` from libs/meshkit/database/bootstrap.py: extension, roles and schemas of
-- citemesh. An administrator runs it once, in the database that citemesh is to have; running it
-- again changes nothing, and so does the script of a newer release where nothing is new.
--
--     psql "$ADMIN_URL" --set ON_ERROR_STOP=1 --file k8s/postgres.sql
--
-- It needs CREATEROLE, CREATE on the database, and leave to make the extension (on Amazon RDS
-- and Aurora: rds_superuser; Cloud SQL: cloudsqlsuperuser; Azure: azure_pg_admin with VECTOR on
-- the list of azure.extensions). No role it makes is a superuser or passes by row security.

CREATE EXTENSION IF NOT EXISTS vector SCHEMA public;
DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'citemesh_embedding') THEN CREATE ROLE citemesh_embedding LOGIN NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE; END IF; END $$;
ALTER ROLE citemesh_embedding SET idle_in_transaction_session_timeout = '10s';
DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'citemesh_rerank') THEN CREATE ROLE citemesh_rerank LOGIN NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE; END IF; END $$;
ALTER ROLE citemesh_rerank SET idle_in_transaction_session_timeout = '10s';
DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'citemesh_retrieval') THEN CREATE ROLE citemesh_retrieval LOGIN NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE; END IF; END $$;
ALTER ROLE citemesh_retrieval SET idle_in_transaction_session_timeout = '10s';
DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'citemesh_ingestion') THEN CREATE ROLE citemesh_ingestion LOGIN NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE; END IF; END $$;
ALTER ROLE citemesh_ingestion SET idle_in_transaction_session_timeout = '10s';
DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'citemesh_generation') THEN CREATE ROLE citemesh_generation LOGIN NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE; END IF; END $$;
ALTER ROLE citemesh_generation SET idle_in_transaction_session_timeout = '10s';
DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'citemesh_gateway') THEN CREATE ROLE citemesh_gateway LOGIN NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE; END IF; END $$;
ALTER ROLE citemesh_gateway SET idle_in_transaction_session_timeout = '10s';
DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'citemesh_embedding_owner') THEN CREATE ROLE citemesh_embedding_owner NOLOGIN NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE; END IF; END $$;
GRANT citemesh_embedding_owner TO CURRENT_USER;
CREATE SCHEMA IF NOT EXISTS embedding AUTHORIZATION citemesh_embedding_owner;
GRANT USAGE ON SCHEMA embedding TO citemesh_embedding;
DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'citemesh_retrieval_owner') THEN CREATE ROLE citemesh_retrieval_owner NOLOGIN NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE; END IF; END $$;
GRANT citemesh_retrieval_owner TO CURRENT_USER;
CREATE SCHEMA IF NOT EXISTS retrieval AUTHORIZATION citemesh_retrieval_owner;
GRANT USAGE ON SCHEMA retrieval TO citemesh_retrieval;
DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'citemesh_ingestion_owner') THEN CREATE ROLE citemesh_ingestion_owner NOLOGIN NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE; END IF; END $$;
GRANT citemesh_ingestion_owner TO CURRENT_USER;
CREATE SCHEMA IF NOT EXISTS ingestion AUTHORIZATION citemesh_ingestion_owner;
GRANT USAGE ON SCHEMA ingestion TO citemesh_ingestion;
DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'citemesh_generation_owner') THEN CREATE ROLE citemesh_generation_owner NOLOGIN NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE; END IF; END $$;
GRANT citemesh_generation_owner TO CURRENT_USER;
CREATE SCHEMA IF NOT EXISTS generation AUTHORIZATION citemesh_generation_owner;
GRANT USAGE ON SCHEMA generation TO citemesh_generation;
DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'citemesh_gateway_owner') THEN CREATE ROLE citemesh_gateway_owner NOLOGIN NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE; END IF; END $$;
GRANT citemesh_gateway_owner TO CURRENT_USER;
CREATE SCHEMA IF NOT EXISTS gateway AUTHORIZATION citemesh_gateway_owner;
GRANT USAGE ON SCHEMA gateway TO citemesh_gateway;
DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'citemesh_usage_owner') THEN CREATE ROLE citemesh_usage_owner NOLOGIN NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE; END IF; END $$;
GRANT citemesh_usage_owner TO CURRENT_USER;
CREATE SCHEMA IF NOT EXISTS usage AUTHORIZATION citemesh_usage_owner;
GRANT USAGE ON SCHEMA usage TO citemesh_embedding;
GRANT USAGE ON SCHEMA usage TO citemesh_rerank;
GRANT USAGE ON SCHEMA usage TO citemesh_retrieval;
GRANT USAGE ON SCHEMA usage TO citemesh_ingestion;
GRANT USAGE ON SCHEMA usage TO citemesh_generation;
GRANT USAGE ON SCHEMA usage TO citemesh_gateway;

-- Who migrates: `migrate-url`. It owns nothing and may act as every owner.
DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'citemesh_migrator') THEN CREATE ROLE citemesh_migrator LOGIN NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE; END IF; END $$;
GRANT citemesh_embedding_owner TO citemesh_migrator;
GRANT citemesh_retrieval_owner TO citemesh_migrator;
GRANT citemesh_ingestion_owner TO citemesh_migrator;
GRANT citemesh_generation_owner TO citemesh_migrator;
GRANT citemesh_gateway_owner TO citemesh_migrator;
GRANT citemesh_usage_owner TO citemesh_migrator;

-- Then a password for each role that logs in; psql asks and sends none in plain text:
--     \password citemesh_embedding
--     \password citemesh_rerank
--     \password citemesh_retrieval
--     \password citemesh_ingestion
--     \password citemesh_generation
--     \password citemesh_gateway
--     \password citemesh_migrator
