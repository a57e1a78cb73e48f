-- Run once by the postgres image, as the superuser, when the cluster is made. It makes the database and a login that can do no more
-- than the gateway needs: it owns the database (to migrate it), is no superuser, and creates neither roles nor databases.
-- At work the gateway acts as consent_app, which may insert into the ledger and read it, and cannot change a row of it.
\set ON_ERROR_STOP on
\if :{?password_file}
\else
    \set password_file /run/secrets/gateway-db-password
\endif
\set password `cat :'password_file'`
SELECT length(:'password') >= 16 AS long_enough \gset
\if :long_enough
\else
    DO $$ BEGIN RAISE EXCEPTION 'the secret gateway-db-password has fewer than 16 characters'; END $$;
\endif

CREATE ROLE consent_app NOLOGIN NOINHERIT;
CREATE ROLE consent_gateway LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS
    CONNECTION LIMIT 100 PASSWORD :'password';
-- With ADMIN: the first migration grants the role to its user once more, which only an administrator of the role may do.
GRANT consent_app TO consent_gateway WITH ADMIN TRUE, INHERIT FALSE, SET TRUE;

CREATE DATABASE consent OWNER consent_gateway ENCODING 'UTF8' TEMPLATE template0 LOCALE_PROVIDER builtin BUILTIN_LOCALE 'C.UTF-8'
    LOCALE 'C';
REVOKE ALL ON DATABASE consent FROM PUBLIC;
REVOKE CONNECT ON DATABASE postgres, template1 FROM PUBLIC;
GRANT CONNECT ON DATABASE consent TO consent_gateway;
