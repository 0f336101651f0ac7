-- migrate:up
-- Who gave back what of an invoice is in the audit trail, also where the invoice stays as it was: by whatever way the note was written.

CREATE FUNCTION audit_credit_note() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    INSERT INTO audit_logs (user_id, actor, action, resource_type, resource_id, after)
    VALUES (NEW.user_id, NEW.actor, 'credit_note.issued', 'credit_note', NEW.id::text,
            jsonb_build_object('number', NEW.number, 'invoice', NEW.invoice_id, 'kind', NEW.kind, 'reason', NEW.reason,
                               'total', NEW.total, 'currency', NEW.currency));
    RETURN NULL;
END $$;

REVOKE ALL ON FUNCTION audit_credit_note FROM PUBLIC;
COMMENT ON FUNCTION audit_credit_note IS 'Trigger: writes to audit_logs what a credit note gives back, and who wrote it.';

CREATE TRIGGER write_credit_note_audit AFTER INSERT ON credit_notes FOR EACH ROW EXECUTE FUNCTION audit_credit_note();
